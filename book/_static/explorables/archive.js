// The archive: one quantity of one network's runs through training, means and spreads over seeds.
{
  const {three, draw, through, begin, speaker, linear, logarithmic, ticks} = explorables;
  const folder = new URL("archive/", document.currentScript.src);

  const {numbers, parts} = begin("archive", `
    <p class="explorable-title">Choose what is drawn</p>
    <div class="archive-choices">
      <label for="archive-network">network</label><select id="archive-network"></select>
      <label for="archive-quantity">quantity</label><select id="archive-quantity"></select>
    </div>
    <fieldset class="archive-boxes"><legend>settings</legend><div data-of="settings"></div></fieldset>
    <fieldset class="archive-boxes"><legend>samples</legend><div data-of="samples"></div></fieldset>
    <svg class="archive-picture" role="img"></svg>
    <div class="explorable-slider">
      <label for="archive-step">checkpoint at step</label> <output for="archive-step"></output>
      <input type="range" id="archive-step" min="0" step="1">
    </div>
    <table class="archive-readings">
      <thead><tr><th scope="col">curve</th><th scope="col">mean</th><th scope="col">spread</th><th scope="col">seeds</th></tr></thead>
      <tbody></tbody>
    </table>
    <p class="explorable-state" role="status"></p>
    <p class="explorable-note">A line is the mean over seeds and a band one standard deviation; on a logarithmic axis
      both are geometric, and the spread is a factor. A marker stands where a run first has a training accuracy
      of 0.999. <span data-part="says"></span></p>
    <p class="explorable-note">This makes the runs again: <code data-part="command"></code></p>
    <button type="button" data-do="copy">Copy a link to this view</button>`);

  const {networks, looks, first} = numbers;
  const say = speaker(parts("[role=status]"));
  const boxes = {network: parts("#archive-network"), quantity: parts("#archive-quantity"), step: parts("#archive-step")};
  const svg = parts("svg"), part = name => parts(`[data-part="${name}"]`);
  const files = {}; // what came of each network
  const option = (text, value) => Object.assign(document.createElement("option"), {textContent: text, value});
  for (const {key, title} of networks) boxes.network.append(option(title, key));

  const HEIGHT = 300, TOP = 24, BOTTOM = 272, LEFT = 58, RIGHT = 14;
  const dashes = {"-": "", "--": "7 4", ":": "2 3"};
  const shapes = {
    o: r => `M${-r},0a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0Z`,
    s: r => `M${-r},${-r}H${r}V${r}H${-r}Z`,
    D: r => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`,
    "^": r => `M0,${-1.2 * r}L${1.2 * r},${r}H${-1.2 * r}Z`,
    v: r => `M0,${1.2 * r}L${1.2 * r},${-r}H${-1.2 * r}Z`,
  };
  const mark = (parent, {color, marker}, size, attributes = {}) => draw(parent, "path", {
    class: "dot", style: `color: var(--${color})`, d: shapes[marker](size), ...attributes,
  });
  for (const [key, look] of Object.entries(looks.settings)) {
    const label = document.createElement("label");
    label.innerHTML = `<input type="checkbox" value="${key}"> <svg viewBox="-8 -8 16 16" aria-hidden="true"></svg> `;
    label.append(look.title);
    mark(label.querySelector("svg"), look, 5);
    parts("[data-of=settings]").append(label);
  }
  for (const [key, line] of Object.entries(looks.samples)) {
    const label = document.createElement("label");
    label.innerHTML = `<input type="checkbox" value="${key}"> <svg viewBox="0 -8 28 16" aria-hidden="true"></svg> `;
    label.append(key);
    draw(label.querySelector("svg"), "path", {class: "curve", d: "M0,0H28", "stroke-dasharray": dashes[line]});
    parts("[data-of=samples]").append(label);
  }
  const all = of => [...parts(`[data-of=${of}]`).querySelectorAll("input")];

  // What is shown: the network's key, the quantity, lists of settings and samples, the step.
  let view, curves = [], scales, missing = "";

  // The view that an address names; what it does not name, or what is not there, is as in `first`.
  function read(address) {
    const asked = new URLSearchParams(address), found = {...first, step: Number.MAX_SAFE_INTEGER}, lost = [];
    const take = (name, known) => {
      if (!asked.has(name)) return;
      const values = asked.get(name).split(",");
      lost.push(...values.filter(value => !known(value)));
      const kept = values.filter(known);
      if (kept.length) found[name] = Array.isArray(first[name]) ? kept : kept[0];
    };
    take("network", key => networks.some(each => each.key === key));
    take("quantity", () => true); // known once the network's file is there
    take("settings", key => key in looks.settings);
    take("samples", key => key in looks.samples);
    take("step", step => /^\d+$/.test(step)); // the nearest checkpoint is taken
    missing = lost.length ? `This page has no ${lost.join(", ")}, which the link names. ` : "";
    return found;
  }

  function address() {
    const {network, quantity, settings, samples, step} = view;
    const values = {network, quantity, settings: settings.join(","), samples: samples.join(","), step};
    const written = value => encodeURIComponent(value).replaceAll("%2C", ",");
    return "#" + Object.entries(values).map(([name, value]) => `${name}=${written(value)}`).join("&");
  }

  // Has the network's file and goes on.
  function load(key, then) {
    if (files[key]) return then();
    const script = document.createElement("script");
    script.src = new URL(`${key}.js`, folder);
    script.addEventListener("load", () => { if (view.network === key) then(); });
    script.addEventListener("error", () => {
      script.remove();
      say(`The file ${key}.js did not load, so there is nothing to draw. Choose the network again, or another one.`);
    });
    document.head.append(script);
  }
  explorables.receive = (key, data) => { files[key] = data; };

  function offerQuantities({quantities}) {
    const groups = {};
    for (const [key, {title, group}] of Object.entries(quantities)) {
      groups[group] ??= Object.assign(document.createElement("optgroup"), {label: group});
      groups[group].append(option(title, key));
    }
    boxes.quantity.replaceChildren(...Object.values(groups));
  }

  // Ticks what is shown, and leaves out what was not measured.
  function offer(of, available) {
    const kept = view[of].filter(key => available.includes(key));
    view[of] = kept.length || !view[of].length ? kept : available;
    for (const box of all(of)) {
      box.disabled = !available.includes(box.value);
      box.checked = view[of].includes(box.value);
    }
  }

  function show() {
    const file = files[view.network], head = networks.find(each => each.key === view.network);
    if (boxes.quantity.dataset.of !== view.network) {
      offerQuantities(file);
      boxes.quantity.dataset.of = view.network;
    }
    if (!(view.quantity in file.quantities)) {
      missing += `This network has no quantity called ${view.quantity}. `;
      view.quantity = first.quantity;
    }
    const measured = file.curves[view.quantity];
    offer("settings", head.settings.filter(key => key in measured));
    const samples = Object.keys(looks.samples);
    offer("samples", samples.filter(name => Object.values(measured).some(each => name in each)));
    boxes.network.value = view.network;
    boxes.quantity.value = view.quantity;
    boxes.step.max = file.steps.length - 1;
    boxes.step.value = nearest(file.steps, view.step);
    curves = view.settings.flatMap(setting => view.samples
      .filter(name => name in measured[setting])
      .map(name => ({setting, name, look: looks.settings[setting], ...measured[setting][name]})));
    part("says").textContent = head.says;
    part("command").textContent = head.commands.find(({settings}) => view.settings.every(key => settings.includes(key))).command;
    drawCurves(file);
    listCurves();
    showStep();
  }

  const nearest = (steps, step) => steps.reduce((best, each, i) =>
    (Math.abs(each - step) < Math.abs(steps[best] - step) ? i : best), 0);

  function ends({mean, spread}, i) {
    const wide = spread[i] ?? (scales.factor ? 1 : 0);
    return scales.factor ? [mean[i] / wide, mean[i] * wide] : [mean[i] - wide, mean[i] + wide];
  }

  function drawCurves(file) {
    const {title, logarithmic: factor} = file.quantities[view.quantity];
    const width = Math.max(svg.clientWidth, 280), right = width - RIGHT, {steps} = file;
    scales = {factor};
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const known = curves.flatMap(curve => curve.mean.flatMap((mean, i) => (mean === null ? [] : ends(curve, i))));
    let [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [1, 2];
    if (low === high) [low, high] = factor ? [low / 2, high * 2] : [low - 1, high + 1];
    const up = (factor ? logarithmic : linear)(low, high, BOTTOM, TOP), across = linear(0, steps.at(-1), LEFT, right);
    Object.assign(scales, {up, across});
    for (const {value, text} of ticks(low, high, factor)) {
      draw(svg, "line", {class: "grid", x1: LEFT, x2: right, y1: up(value), y2: up(value)});
      draw(svg, "text", {class: "tick", x: LEFT - 6, y: up(value) + 4, "text-anchor": "end"}, text);
    }
    for (const {value, text} of ticks(0, steps.at(-1), false, width < 480 ? 3 : 6)) {
      draw(svg, "text", {class: "tick", x: across(value), y: BOTTOM + 20, "text-anchor": "middle"}, text);
    }
    draw(svg, "text", {x: 0, y: 12}, title);
    scales.marker = draw(svg, "line", {class: "marker", y1: TOP - 6, y2: BOTTOM});
    for (const curve of curves) drawBand(curve, steps);
    for (const curve of curves) drawLine(curve, file);
    const words = curves.map(({look, name}) => `${look.title}, ${name}`).join("; ");
    svg.setAttribute("aria-label", `${title} against steps of training, ${curves.length} curves: ${words || "none"}.`);
  }

  // Runs of checkpoints at which the curve is known.
  function stretches(curve) {
    const found = [[]];
    curve.mean.forEach((mean, i) => (mean === null ? found.push([]) : found.at(-1).push(i)));
    return found.filter(stretch => stretch.length);
  }

  function drawBand(curve, steps) {
    for (const stretch of stretches(curve)) {
      const edge = (which, way) => way.map(i => [scales.across(steps[i]), scales.up(ends(curve, i)[which])]);
      const band = [...edge(0, stretch), ...edge(1, [...stretch].reverse())];
      draw(svg, "path", {class: "band", style: `color: var(--${curve.look.color})`, d: through(band) + "Z"});
    }
  }

  function drawLine(curve, {steps, fits}) {
    const {look, name, mean, setting} = curve, style = `color: var(--${look.color})`;
    const place = i => [scales.across(steps[i]), scales.up(mean[i])];
    for (const stretch of stretches(curve)) {
      const dash = dashes[looks.samples[name]];
      draw(svg, "path", {class: "curve", style, d: through(stretch.map(place)), "stroke-dasharray": dash});
    }
    for (const step of fits[setting] ?? []) {
      const i = steps.indexOf(step);
      if (mean[i] !== null) mark(svg, look, 4, {class: "dot fit", transform: `translate(${place(i)})`});
    }
    curve.dot = draw(svg, "circle", {class: "dot", style, r: 4.5});
  }

  function listCurves() {
    parts("tbody").replaceChildren(...curves.map(({setting, name, look}) => {
      const row = document.createElement("tr"), cell = kind => `<td data-now="${setting} ${name} ${kind}"></td>`;
      row.innerHTML = `<th scope="row"><svg viewBox="-8 -8 16 16" aria-hidden="true"></svg> </th>`
        + cell("mean") + cell("spread") + cell("seeds");
      row.cells[0].append(`${look.title}, ${name}`);
      mark(row.querySelector("svg"), look, 5);
      return row;
    }));
  }

  function showStep() {
    const {steps, quantities} = files[view.network], i = boxes.step.valueAsNumber, x = scales.across(steps[i]);
    view.step = steps[i];
    const at = steps[i].toLocaleString("en");
    parts("output").textContent = `${at} of ${steps.at(-1).toLocaleString("en")}`;
    boxes.step.setAttribute("aria-valuetext", `step ${at}`);
    scales.marker.setAttribute("x1", x);
    scales.marker.setAttribute("x2", x);
    const cells = [...parts("tbody").rows];
    curves.forEach(({mean, spread, n, dot}, row) => {
      const write = (cell, text) => { cells[row].cells[cell].textContent = text; };
      const known = mean[i] !== null, wide = spread[i] === null ? "–" : three(spread[i]);
      write(1, known ? three(mean[i]) : "not finite");
      write(2, wide === "–" ? wide : `${scales.factor ? "×÷" : "±"} ${wide}`);
      write(3, String(n[i] ?? n));
      dot.style.display = known ? "" : "none";
      if (known) dot.setAttribute("transform", `translate(${x},${scales.up(mean[i])})`);
    });
    tell(at, quantities[view.quantity].title, i);
  }

  function tell(at, title, i) {
    const known = curves.filter(({mean}) => mean[i] !== null).sort((one, other) => one.mean[i] - other.mean[i]);
    const one = ({look, name, mean}) => `${three(mean[i])} (${look.title}, ${name})`;
    let words = "nothing finite is measured.";
    if (!curves.length) words = "nothing is chosen. Tick a setting and a set of samples.";
    else if (known.length === 1) words = `${one(known[0])}.`;
    else if (known.length) words = `${known.length} curves, from ${one(known[0])} to ${one(known.at(-1))}.`;
    say(`${missing}At step ${at}, ${title}: ${words}`);
  }

  // What a reader does is kept in the page's address.
  function moved() {
    missing = "";
    history.replaceState(null, "", address());
  }
  function goTo(address) {
    view = read(address);
    load(view.network, show);
  }
  boxes.network.addEventListener("input", () => {
    view.network = boxes.network.value;
    load(view.network, () => { show(); moved(); });
  });
  boxes.quantity.addEventListener("input", () => {
    view.quantity = boxes.quantity.value;
    show();
    moved();
  });
  for (const of of ["settings", "samples"]) {
    parts(`[data-of=${of}]`).addEventListener("input", () => {
      view[of] = all(of).filter(box => box.checked).map(box => box.value);
      show();
      moved();
    });
  }
  boxes.step.addEventListener("input", () => { showStep(); moved(); });
  parts("[data-do=copy]").addEventListener("click", async () => {
    moved();
    const copied = await navigator.clipboard.writeText(location.href).then(() => true, () => false);
    say(copied ? "The link to this view is copied." : "This browser does not copy. The page's address is the link to this view.");
  });
  const point = event => {
    if (!scales?.across) return;
    const {steps} = files[view.network], {left} = svg.getBoundingClientRect();
    const before = boxes.step.value, share = (event.clientX - left - LEFT) / (scales.across(steps.at(-1)) - LEFT);
    boxes.step.value = nearest(steps, share * steps.at(-1));
    if (boxes.step.value !== before) boxes.step.dispatchEvent(new Event("input"));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  new ResizeObserver(() => { if (files[view.network] && scales) { drawCurves(files[view.network]); showStep(); } }).observe(svg);
  const named = () => location.hash.startsWith("#network=");
  addEventListener("hashchange", () => { if (named()) goTo(location.hash.slice(1)); });
  goTo(named() ? location.hash.slice(1) : "");
  if (named()) parts(".explorable-title").scrollIntoView();
}
