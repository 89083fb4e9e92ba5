// The valley: descent with noisy labels on the loss of f(x) = w_2 w_1 x at x = 1, y = 1.
{
  const {three, draw, through, linear, begin, show, speaker, player} = explorables;

  const row = (name, words) => `<tr><th scope="row">${words}</th><td data-now="${name}"></td><td data-before="${name}"></td></tr>`;
  const choice = (name, words, range) => `
    <div class="explorable-slider explorable-in-line">
      <label for="valley-${name}">${words}</label>
      <input type="range" id="valley-${name}" ${range}> <output for="valley-${name}" data-now="${name}"></output>
    </div>`;
  const {numbers, parts} = begin("valley", `
    <p class="explorable-title">Let the noise find the flattest minimum</p>
    <div class="explorable-columns">
      <div>
        <svg viewBox="0 0 400 290" role="img" aria-label="The two weights on a map of the loss. The minima lie on a curve from upper left to lower right, and the flattest minimum is where both weights are 1."></svg>
        ${choice("start", "<i>w</i>₁ at the start", 'min="0.4" max="2.5" step="0.1" value="2.5"')}
        ${choice("noise", "noise of the label", 'min="0" max="1" step="0.1" value="0.5"')}
      </div>
      <div>
        <table>
          <thead><tr><td></td><th scope="col">now</th><th scope="col">start</th></tr></thead>
          <tbody>${row("w_1", "<i>w</i>₁")}${row("w_2", "<i>w</i>₂")}${row("product", "<i>w</i>₁<i>w</i>₂")}
            ${row("S", "sharpness <i>S</i>")}${row("imbalance", "<i>w</i>₁² − <i>w</i>₂²")}</tbody>
        </table>
        <p class="explorable-note">Every minimum has <i>w</i>₁<i>w</i>₂ = 1 and computes the same function. The flattest,
          with <i>S</i> = 2, is the diamond. Each step sees the label with a fresh error.</p>
      </div>
    </div>
    <div class="explorable-play">
      <button type="button" data-do="play"></button>
      <div class="explorable-slider">
        <label for="valley-step">step of descent</label> <output for="valley-step"></output>
        <input type="range" id="valley-step" min="0" step="10" value="0">
      </div>
      <button type="button" data-do="back">Back to the start</button>
    </div>
    <p class="explorable-state" role="status"></p>`);

  const {errors, rate} = numbers;
  const sliders = Object.fromEntries(["start", "noise", "step"].map(name => [name, parts(`#valley-${name}`)]));
  const svg = parts("svg"), say = speaker(parts("[role=status]"));
  sliders.step.max = errors.length;

  // All steps from the minimum (start, 1 / start): a step of size r (w_2, w_1) for the residual r.
  function descended(start, noise) {
    const path = [[start, 1 / start]];
    for (const error of errors) {
      const [w_1, w_2] = path.at(-1), residual = w_1 * w_2 - (1 + noise * error);
      path.push([w_1 - rate * residual * w_2, w_2 - rate * residual * w_1]);
    }
    return path;
  }
  const read = ([w_1, w_2]) => ({
    w_1, w_2, product: w_1 * w_2, S: w_1 ** 2 + w_2 ** 2, imbalance: w_1 ** 2 - w_2 ** 2,
  });

  const LEFT = 40, RIGHT = 390, TOP = 12, BOTTOM = 254, LARGEST = 3;
  const across = linear(0, LARGEST, LEFT, RIGHT), up = linear(0, LARGEST, BOTTOM, TOP);
  const place = ([w_1, w_2]) => [across(w_1), up(w_2)];
  // Where w_1 w_2 is `product`, as far as the picture goes.
  const hyperbola = product => Array.from({length: 61}, (_, i) => product / LARGEST * (LARGEST ** 2 / product) ** (i / 60))
    .map(w_1 => place([w_1, product / w_1]));
  for (const tick of [0, 1, 2, 3]) {
    draw(svg, "line", {class: "grid", x1: LEFT, x2: RIGHT, y1: up(tick), y2: up(tick)});
    draw(svg, "line", {class: "grid", x1: across(tick), x2: across(tick), y1: TOP, y2: BOTTOM});
    draw(svg, "text", {class: "tick", x: LEFT - 8, y: up(tick) + 4, "text-anchor": "end"}, tick);
    draw(svg, "text", {class: "tick", x: across(tick), y: BOTTOM + 18, "text-anchor": "middle"}, tick);
  }
  draw(svg, "text", {x: 0, y: (TOP + up(2)) / 2 + 20}, "w₂");
  draw(svg, "text", {x: (across(2) + RIGHT) / 2, y: BOTTOM + 32, "text-anchor": "middle"}, "w₁");
  for (const loss of [0.02, 0.1, 0.3, 1, 3]) {
    for (const product of [1 - Math.sqrt(2 * loss), 1 + Math.sqrt(2 * loss)]) {
      if (product > 0.05) draw(svg, "path", {class: "contour", d: through(hyperbola(product))});
    }
  }
  draw(svg, "path", {class: "curve minima", d: through(hyperbola(1))});
  const trail = draw(svg, "path", {class: "trail"});
  draw(svg, "path", {class: "dot flattest", d: "M0,-7L7,0L0,7L-7,0Z", transform: `translate(${place([1, 1])})`});
  const ball = draw(svg, "circle", {class: "dot ball", r: 6});

  let path;
  function update() {
    const step = sliders.step.valueAsNumber, now = read(path[step]), at = step.toLocaleString("en");
    const start = sliders.start.valueAsNumber, noise = sliders.noise.valueAsNumber;
    show(parts, {...now, start, noise});
    trail.setAttribute("d", through(path.slice(0, step + 1).map(place)));
    ball.setAttribute("transform", `translate(${place(path[step])})`);
    parts('output[for="valley-step"]').textContent = `${at} of ${errors.length.toLocaleString("en")}`;
    sliders.step.setAttribute("aria-valuetext", `step ${at}`);
    const still = noise === 0 ? " Without noise nothing moves." : "";
    say(`After ${at} steps with noise ${three(noise)}: w₁ is ${three(now.w_1)}, w₂ is ${three(now.w_2)} and the `
      + `sharpness is ${three(now.S)}; the least is 2.${still}`);
  }

  const stop = player(parts("[data-do=play]"), sliders.step, "descent", {aloneWhenCalm: false});
  function restart() {
    stop();
    for (const name of ["start", "noise"]) {
      sliders[name].setAttribute("aria-valuetext", three(sliders[name].valueAsNumber));
    }
    path = descended(sliders.start.valueAsNumber, sliders.noise.valueAsNumber);
    show(parts, read(path[0]), "before");
    sliders.step.value = 0;
    update();
  }
  sliders.start.addEventListener("input", restart);
  sliders.noise.addEventListener("input", restart);
  sliders.step.addEventListener("input", update);
  parts("[data-do=back]").addEventListener("click", restart);
  restart();
}
