// A link into a folded box opens the box: what is asked for by name is shown.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const box = target?.parentElement.closest(".toggle-hidden");
  if (!box) return;
  box.querySelector(".admonition-title").click();
  target.scrollIntoView();
}

addEventListener("load", unfold);
addEventListener("hashchange", unfold);
