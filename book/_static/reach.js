// What is wider than its place scrolls: the keyboard reaches just that.
const wide = "div.math, span.math, pre, .output, .pst-scrollable-table-container, table, .card-table, .claims-picture, .drawing";

function letReach() {
  for (const box of document.querySelectorAll(wide)) {
    const scrolls = box.scrollWidth > box.clientWidth && /auto|scroll/.test(getComputedStyle(box).overflowX);
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

// Fonts and figures arrive late: each box is watched, and not the page alone.
addEventListener("load", () => {
  const watch = new ResizeObserver(letReach);
  for (const box of [document.querySelector("main"), ...document.querySelectorAll(wide)]) watch.observe(box);
});
