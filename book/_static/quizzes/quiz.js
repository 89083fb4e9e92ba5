// A reader chooses and asks; the word on the choice is decoded then, and read out where it stands.
function decode(told) {
  const bytes = Uint8Array.from(atob(told), letter => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

function prepare(question) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Check";
  const word = document.createElement("div");
  word.className = "quiz-word";
  word.setAttribute("role", "status");
  question.append(button, word);

  const show = (state, text) => {
    word.dataset.state = state;
    word.innerHTML = text;
    window.MathJax?.typesetPromise?.([word]);
  };
  question.addEventListener("change", () => show("", ""));
  button.addEventListener("click", () => {
    const chosen = question.querySelector("input:checked");
    if (!chosen) return show("open", "Choose an answer first.");
    const { right, feedback } = decode(chosen.parentElement.querySelector("[data-told]").dataset.told);
    const verdict = right ? "<b>✓ Right.</b>" : "<b>✗ Not this one.</b>";
    show(right ? "right" : "wrong", `${verdict} ${feedback}`);
  });
}

document.querySelectorAll(".quiz-question").forEach(prepare);
