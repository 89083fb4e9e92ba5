// The disk and the ellipse: a disk of inputs carried by a Jacobian, whose singular values a reader
// sets, or a network in training.
{
  const {
    three, product, applied, decomposed, composed, rotation, geometry, draw, through, begin, show, speaker, player,
  } = explorables;

  const row = (name, words) => `
    <tr><th scope="row">${words}</th><td data-now="${name}"></td><td data-before="${name}"></td></tr>`;
  const axis = (name, words) => `
    <div class="explorable-slider explorable-in-line">
      <label for="disc-${name}"><span class="explorable-key of-${name}"></span> ${words}</label>
      <input type="range" id="disc-${name}" max="3" step="0.05"> <output for="disc-${name}"></output>
    </div>`;
  const {numbers, parts} = begin("disc", `
    <p class="explorable-title">Stretch the ellipse, or let a network in training do it</p>
    <div class="explorable-columns">
      <div>
        <svg viewBox="0 0 400 226" role="img" aria-label="A disk of inputs, left, and the ellipse of outputs that it becomes, right, with the half-axes of both."></svg>
        ${axis("first", "first half-axis")}
        ${axis("second", "second half-axis")}
      </div>
      <div>
        <table>
          <thead><tr><td></td><th scope="col">now</th><th scope="col">example</th></tr></thead>
          <tbody>
            ${row("mls", "MLS")}${row("G", "<i>G</i>")}
            ${row("volume", "volume")}${row("dimensionality", "dimensionality")}
          </tbody>
        </table>
        <p class="explorable-note">The half-axes are the singular values. MLS is the longer one, <i>G</i> the sum of
          their squares and the volume their product. The dimensionality is 2 for a circle and 1 for a line.</p>
      </div>
    </div>
    <div class="explorable-play">
      <button type="button" data-do="play"></button>
      <div class="explorable-slider">
        <label for="disc-step">step of training</label> <output for="disc-step"></output>
        <input type="range" id="disc-step" min="0" value="0">
      </div>
      <button type="button" data-do="back">Running example</button>
    </div>
    <p class="explorable-state" role="status"></p>`);

  const {W_1, W_2} = numbers.network, {frames} = numbers;
  const example = decomposed(product(W_2, W_1));
  show(parts, geometry(example.first, Math.abs(example.second)), "before");

  // Inputs around (80, 113), outputs around (284, 113), both with 34 pixels a unit.
  const unit = 34, svg = parts("svg"), middle = 113;
  const place = (x, [u, v]) => [x + unit * u, middle - unit * v];
  const panel = (x, half, name) => {
    for (const [x1, y1, x2, y2] of [[x - half, middle, x + half, middle], [x, middle - half, x, middle + half]]) {
      draw(svg, "line", {class: "grid", x1, y1, x2, y2});
    }
    draw(svg, "text", {x: x - half, y: 12}, name);
    const filled = draw(svg, "path", {class: "disc"});
    const ring = draw(svg, "path", {class: "ring"});
    return {x, filled, ring, axes: ["first", "second"].map(which => draw(svg, "path", {class: `half-axis of-${which}`}))};
  };
  const inputs = panel(60, 50, "inputs"), outputs = panel(284, 106, "outputs");
  draw(svg, "path", {class: "carries", d: `M124,${middle}H160m-7,-5l7,5l-7,5`});

  const angles = Array.from({length: 73}, (_, i) => i * Math.PI / 36);
  const circle = angles.map(angle => [Math.cos(angle), Math.sin(angle)]);
  const paint = ({x, filled, ring, axes}, matrix, right) => {
    const carried = (points, size) => points.map(([u, v]) => place(x, applied(matrix, [size * u, size * v])));
    filled.setAttribute("d", through(carried(circle, 1)));
    ring.setAttribute("d", through(carried(circle, 0.5)));
    // The rows of the right rotation are the directions that become the half-axes.
    rotation(right).forEach(([u, v], i) => axes[i].setAttribute("d", through(carried([[0, 0], [u, v]], 1))));
  };

  let state, source;
  const sliders = {first: parts("#disc-first"), second: parts("#disc-second"), step: parts("#disc-step")};
  const say = speaker(parts("[role=status]"));
  sliders.first.min = 0.05;
  sliders.second.min = 0;
  sliders.step.max = frames.length - 1;

  function update() {
    const sizes = {first: state.first, second: Math.abs(state.second)}, now = geometry(sizes.first, sizes.second);
    show(parts, now);
    paint(inputs, [[1, 0], [0, 1]], state.right);
    paint(outputs, composed(state), state.right);
    for (const [name, size] of Object.entries(sizes)) {
      sliders[name].value = size;
      sliders[name].setAttribute("aria-valuetext", three(size));
      parts(`output[for="disc-${name}"]`).textContent = three(size);
    }
    say(`${source}: MLS ${three(now.mls)}, G ${three(now.G)}, volume ${three(now.volume)}, `
      + `dimensionality ${three(now.dimensionality)}.`);
  }

  function tellStep(text) {
    parts('output[for="disc-step"]').textContent = text;
    sliders.step.setAttribute("aria-valuetext", text);
  }

  function showExample() {
    stop();
    state = example;
    source = "The running example";
    sliders.step.value = 0;
    tellStep(`0 of ${frames.at(-1).step.toLocaleString("en")}`);
    update();
  }

  function showTraining() {
    const {step, loss, J} = frames[sliders.step.valueAsNumber];
    state = decomposed(J);
    source = `After ${step.toLocaleString("en")} steps of training, with the loss at ${three(loss)}`;
    tellStep(`${step.toLocaleString("en")} of ${frames.at(-1).step.toLocaleString("en")}`);
    update();
  }

  const stop = player(parts("[data-do=play]"), sliders.step, "training");
  for (const name of ["first", "second"]) {
    sliders[name].addEventListener("input", () => {
      stop();
      const sign = name === "second" && state.second < 0 ? -1 : 1;
      state = {...state, [name]: sign * sliders[name].valueAsNumber};
      source = "With these half-axes";
      update();
    });
  }
  sliders.step.addEventListener("input", showTraining);
  parts("[data-do=back]").addEventListener("click", showExample);
  showExample();
}
