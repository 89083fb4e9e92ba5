// All slides are laid out at once, so that MathJax can measure each of them.
const everySlide = 1000;

window.MathJax = { startup: { typeset: false }, options: { enableMenu: false } };
addEventListener("load", async () => {
  await MathJax.startup.promise; // none where no formula stands
  await Reveal.initialize({
    hash: true, width: 1100, height: 700, margin: 0.06, center: false, slideNumber: "c/t",
    transition: "none", viewDistance: everySlide, mobileViewDistance: everySlide,
    pdfSeparateFragments: false, plugins: [RevealNotes],
  });
  await MathJax.typesetPromise?.();
  Reveal.layout();
  document.documentElement.dataset.deck = "ready";
});
