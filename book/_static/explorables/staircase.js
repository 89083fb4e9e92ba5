// The staircase from A to D: what each step of Eq. (28) costs, for a network and lengths of inputs.
{
  const {three, scaled, measure, draw, through, logarithmic, ticks, begin, show, speaker} = explorables;

  const row = (name, words) => `
    <tr><th scope="row">${words}</th><td data-now="${name}"></td><td data-before="${name}"></td></tr>`;
  const {numbers, parts} = begin("staircase", `
    <p class="explorable-title">Which step costs most?</p>
    <div class="archive-choices"><label for="staircase-network">network</label><select id="staircase-network"></select></div>
    <div class="explorable-columns">
      <div>
        <svg viewBox="0 0 400 270" role="img" aria-label="The terms A, B, C and D as steps of a staircase, on a logarithmic axis, with the factor of each step."></svg>
        <div class="explorable-slider">
          <label for="staircase-spread">longest input over shortest</label> <output for="staircase-spread"></output>
          <input type="range" id="staircase-spread" min="0" max="1" step="0.05" value="0">
        </div>
      </div>
      <table>
        <thead><tr><td></td><th scope="col">now</th><th scope="col">one length</th></tr></thead>
        <tbody>${["A", "B", "C", "D"].map(name => row(name, `<i>${name}</i>`)).join("")}</tbody>
        <tbody>${["B/A", "C/B", "D/C"].map(name => row(name, `<i>${name}</i>`)).join("")}</tbody>
      </table>
    </div>
    <p class="explorable-state" role="status"></p>`);

  const {networks, directions, length, widest} = numbers;
  const select = parts("select"), slider = parts("input"), svg = parts("svg"), say = speaker(parts("[role=status]"));
  networks.forEach(({title}, i) => select.append(Object.assign(document.createElement("option"), {textContent: title, value: i})));

  // Lengths from short to long in equal factors; their geometric mean stays.
  const inputs = spread => directions.map((direction, i) =>
    scaled([direction], length * spread ** (i / (directions.length - 1) - 0.5))[0]);
  const STEPS = [["A", "B"], ["B", "C"], ["C", "D"]];
  const at = (network, spread) => {
    const chain = measure({...network, x: inputs(spread)});
    return {...chain, ...Object.fromEntries(STEPS.map(([from, to]) => [`${to}/${from}`, chain[to] / chain[from]]))};
  };

  // Each network has an axis of its own, which holds the chain at every spread.
  const LEFT = 48, WIDTH = 84, TOP = 24, BOTTOM = 232;
  function picture(network, now) {
    const low = at(network, 1).A / 1.15, high = 1.25 * Math.max(at(network, 1).D, at(network, widest).D);
    const up = logarithmic(low, high, BOTTOM, TOP);
    svg.replaceChildren();
    for (const {value, text} of ticks(low, high, true)) {
      draw(svg, "line", {class: "grid", x1: LEFT, x2: LEFT + 4 * WIDTH, y1: up(value), y2: up(value)});
      draw(svg, "text", {class: "tick", x: LEFT - 6, y: up(value) + 4, "text-anchor": "end"}, text);
    }
    ["A", "B", "C", "D"].forEach((name, i) => {
      const x = LEFT + i * WIDTH, y = up(now[name]);
      draw(svg, "path", {class: `tread of-${name}`, d: through([[x, BOTTOM], [x, y], [x + WIDTH, y], [x + WIDTH, BOTTOM]]) + "Z"});
      draw(svg, "path", {class: `edge of-${name}`, d: through([[x, y], [x + WIDTH, y]])});
      draw(svg, "text", {class: "term", x: x + WIDTH / 2, y: BOTTOM + 20, "text-anchor": "middle"}, name);
    });
    for (const [i, [from, to]] of STEPS.entries()) {
      const x = LEFT + (i + 1) * WIDTH, y = up(now[to]) - 7;
      draw(svg, "text", {x, y, "text-anchor": "middle"}, `× ${three(now[`${to}/${from}`])}`);
    }
  }

  function verdict(now) {
    const factors = STEPS.map(([from, to]) => ({from, to, factor: now[`${to}/${from}`]}));
    const most = factors.reduce((best, each) => (each.factor > best.factor ? each : best));
    const free = factors.filter(({factor}) => three(factor) === "1.00").map(({from, to}) => `${from} to ${to}`);
    const costs = three(most.factor) === "1.00" ? "No step costs anything"
      : `The step from ${most.from} to ${most.to} costs most, a factor of ${three(most.factor)}`;
    const alike = factors.filter(each => each !== most && three(each.factor) === three(most.factor));
    const beside = alike.length && three(most.factor) !== "1.00" ? `, and so does that from ${alike[0].from} to ${alike[0].to}` : "";
    const nothing = free.length && free.length < 3 ? ` Free: ${free.join(", ")}.` : "";
    return `${costs}${beside}.${nothing} In all D is ${three(now.D / now.A)} times A.`;
  }

  function update() {
    const network = networks[select.value], spread = widest ** slider.valueAsNumber, now = at(network, spread);
    show(parts, now);
    show(parts, at(network, 1), "before");
    picture(network, now);
    parts("output").textContent = three(spread);
    slider.setAttribute("aria-valuetext", `longest over shortest ${three(spread)}`);
    say(`With inputs of ${spread === 1 ? "one length" : `lengths up to ${three(spread)} times the shortest`}: ${verdict(now)}`);
  }

  select.addEventListener("input", update);
  slider.addEventListener("input", update);
  update();
}
