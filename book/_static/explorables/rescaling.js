// The rescaling slider: W_1 times c and W_2 over c, for the running example.
{
  const {three, scaled, measure, draw, through, logarithmic, begin, show, speaker} = explorables;

  const row = (name, symbol, words) => `
    <tr><th scope="row"><i>${symbol}</i> ${words}</th><td data-now="${name}"></td><td data-before="${name}"></td></tr>`;
  const {numbers, parts} = begin("rescaling", `
    <p class="explorable-title">Move the slider: W₁ times c, W₂ over c</p>
    <div class="explorable-columns">
      <div>
        <svg viewBox="0 0 400 330" role="img" aria-label="Sharpness and the terms A to D against the factor c, on logarithmic axes. A line marks the slider's c."></svg>
        <div class="explorable-slider explorable-under-axis">
          <input type="range" id="rescaling-factor" step="0.05" value="0">
          <label for="rescaling-factor">factor c</label> <output for="rescaling-factor"></output>
        </div>
      </div>
      <table>
        <thead><tr><td></td><th scope="col">now</th><th scope="col">at c = 1</th></tr></thead>
        <tbody><tr><th scope="rowgroup" colspan="3">Moves</th></tr>
          ${row("norm_1", "‖W₁‖", "")}${row("norm_2", "‖W₂‖", "")}
          ${row("S", "S", "sharpness")}${row("D", "D", "bound")}</tbody>
        <tbody><tr><th scope="rowgroup" colspan="3">Stands still</th></tr>
          ${row("A", "A", "sensitivity")}${row("B", "B", "")}${row("C", "C", "")}
          ${row("relative_sharpness", "", "relative sharpness")}
          ${row("relative_flatness", "", "relative flatness")}
          ${row("adaptive", "", "adaptive sharpness")}</tbody>
      </table>
    </div>
    <p class="explorable-state" role="status"></p>`);

  const {W_1, W_2, x} = numbers.network, {largest} = numbers;
  const at = c => measure({W_1: scaled(W_1, c), W_2: scaled(W_2, 1 / c), x});
  const before = at(1);
  show(parts, before, "before");

  // Two panels above the slider, sharpness and the chain, with the slider's axis.
  const left = 44, right = 372, svg = parts("svg");
  const across = logarithmic(1 / largest, largest, left, right);
  const factors = Array.from({length: 81}, (_, i) => largest ** (i / 40 - 1));
  const curves = factors.map(at);
  const panels = [
    {names: ["S"], bottom: 130, top: 14, ticks: [500, 1000, 2000, 5000], low: 480, high: 6500, title: "sharpness S"},
    {names: ["A", "B", "C", "D"], bottom: 300, top: 160, ticks: [2, 5, 10, 20, 50, 100], low: 2, high: 120, title: "terms of the chain"},
  ];
  const dots = {};
  for (const {names, bottom, top, ticks, low, high, title} of panels) {
    const up = logarithmic(low, high, bottom, top);
    for (const tick of ticks) {
      draw(svg, "line", {class: "grid", x1: left, x2: right, y1: up(tick), y2: up(tick)});
      draw(svg, "text", {class: "tick", x: left - 6, y: up(tick) + 4, "text-anchor": "end"}, tick.toLocaleString("en"));
    }
    draw(svg, "text", {x: left, y: top - 4}, title);
    for (const name of names) {
      const line = factors.map((c, i) => [across(c), up(curves[i][name])]);
      draw(svg, "path", {class: `curve of-${name}`, d: through(line)});
      // The three flat lines are close: their names stand apart.
      const apart = {A: 6, B: 1, C: -4}[name] ?? 0;
      draw(svg, "text", {class: "term", x: right + 8, y: line.at(-1)[1] + 4 + apart}, name);
      dots[name] = {up, mark: draw(svg, "circle", {class: `dot of-${name}`, r: 4})};
    }
  }
  const marker = draw(svg, "line", {class: "marker", y1: 10, y2: 300});
  svg.prepend(marker);
  for (const [c, text] of [[1 / 4, "¼"], [1 / 2, "½"], [1, "1"], [2, "2"], [4, "4"]]) {
    draw(svg, "text", {class: "tick", x: across(c), y: 318, "text-anchor": "middle"}, text);
  }

  const slider = parts("input"), say = speaker(parts("[role=status]"));
  slider.max = Math.log2(largest);
  slider.min = -slider.max;

  function update() {
    const c = 2 ** slider.valueAsNumber, now = at(c);
    show(parts, now);
    for (const [name, {up, mark}] of Object.entries(dots)) {
      mark.setAttribute("cx", across(c));
      mark.setAttribute("cy", up(now[name]));
    }
    marker.setAttribute("x1", across(c));
    marker.setAttribute("x2", across(c));
    parts("output").textContent = three(c);
    slider.setAttribute("aria-valuetext", `c = ${three(c)}`);
    const times = name => three(now[name] / before[name]);
    say(c === 1
      ? `At c = 1 the sharpness is ${three(now.S)} and the bound D is ${three(now.D)}.`
      : `At c = ${three(c)} the sharpness is ${three(now.S)}, ${times("S")} times that at c = 1, and the bound D is `
        + `${three(now.D)}, ${times("D")} times. The function, A, B and C are the same.`);
  }

  slider.addEventListener("input", update);
  update();
}
