// What the explorables share: drawing, numbers to three digits, and the measures of the network
// f(x) = W_2 relu(W_1 x) with 2 x 2 weights, in closed form.
const explorables = (() => {
  // A number to three significant digits, as people write it: 0.125, 7.71, 594, 5,520.
  function three(value) {
    const rounded = Number(value.toPrecision(3));
    if (rounded === 0) return "0.00";
    const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(rounded))));
    const digits = {minimumFractionDigits: decimals, maximumFractionDigits: decimals};
    return rounded.toLocaleString("en", digits).replace("-", "\u2212");
  }

  // Matrices are lists of rows, vectors lists of numbers.
  const dot = (u, v) => u.reduce((total, each, i) => total + each * v[i], 0);
  const transposed = A => A[0].map((_, column) => A.map(row => row[column]));
  const applied = (A, v) => A.map(row => dot(row, v));
  const product = (A, B) => transposed(transposed(B).map(column => applied(A, column)));
  const scaled = (A, factor) => A.map(row => row.map(entry => factor * entry));
  const square = value => value * value;
  const squared = A => A.map(row => row.map(square));
  const sum = values => values.reduce((total, value) => total + value, 0);
  const squares = A => sum(squared(A).map(sum));
  const mean = values => sum(values) / values.length;

  // J = R(left) diag(first, second) R(right) for rotations R by angles, in radians. The second number
  // is below 0 where J mirrors; without its sign the two are the singular values.
  function decomposed([[a, b], [c, d]]) {
    const turning = [(a + d) / 2, (c - b) / 2], mirroring = [(a - d) / 2, (c + b) / 2];
    const [sum, difference] = [turning, mirroring].map(([x, y]) => Math.atan2(y, x));
    return {
      first: Math.hypot(...turning) + Math.hypot(...mirroring),
      second: Math.hypot(...turning) - Math.hypot(...mirroring),
      left: (sum + difference) / 2,
      right: (sum - difference) / 2,
    };
  }

  const rotation = angle => [[Math.cos(angle), -Math.sin(angle)], [Math.sin(angle), Math.cos(angle)]];

  function composed({first, second, left, right}) {
    return product(rotation(left), product([[first, 0], [0, second]], rotation(right)));
  }

  function singularValues(J) {
    const {first, second} = decomposed(J);
    return [first, Math.abs(second)];
  }

  // What is read off a Jacobian with these two singular values, in any order.
  function geometry(first, second) {
    const G = first ** 2 + second ** 2;
    return {
      mls: Math.max(first, second),
      G,
      volume: first * second,
      dimensionality: G ** 2 / (first ** 4 + second ** 4),
    };
  }

  // Sharpness, the chain A to D and the sharpnesses that rescaling leaves alone.
  function measure({W_1, W_2, x}) {
    const samples = x.map(input => {
      const on = applied(W_1, input).map(before => (before > 0 ? 1 : 0));
      const hidden = applied(W_1, input).map((before, h) => on[h] * before);
      const reading = W_2.map(row => row.map((weight, h) => on[h] * weight));
      return {
        length: Math.hypot(...input),
        mls: singularValues(product(reading, W_1))[0],
        // Squared norms of the gradients of all outputs: a weight's is what it reads times what
        // becomes of it.
        gradient_1: dot(input, input) * squares(reading),
        gradient_2: W_2.length * dot(hidden, hidden),
        hidden: dot(hidden, hidden),
        // Every gradient times its weight, squared and added up.
        adaptive: sum(applied(squared(reading), applied(squared(W_1), input.map(square))))
          + sum(applied(squared(W_2), hidden.map(square))),
      };
    });
    const over = quantity => mean(samples.map(quantity));
    const norm_1 = singularValues(W_1)[0], norm_2 = singularValues(W_2)[0];
    const inverse = Math.sqrt(over(s => 1 / s.length ** 2));
    const S = over(s => s.gradient_1 + s.gradient_2);
    return {
      norm_1,
      norm_2,
      S,
      A: over(s => s.mls),
      B: norm_1 * over(s => Math.sqrt(s.gradient_1) / s.length),
      C: norm_1 * inverse * Math.sqrt(over(s => s.gradient_1)),
      D: norm_1 * inverse * Math.sqrt(S),
      relative_sharpness: over(s => norm_1 ** 2 * s.gradient_1 + norm_2 ** 2 * s.gradient_2),
      relative_flatness: squares(W_2) * over(s => s.hidden),
      adaptive: over(s => s.adaptive),
    };
  }

  // An SVG element inside another one.
  function draw(parent, name, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  // The d of a path through points.
  const through = points => "M" + points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join("L");

  // Scales from numbers to pixels.
  const linear = (low, high, from, to) => value => from + (value - low) / (high - low) * (to - from);

  function logarithmic(low, high, from, to) {
    const part = value => Math.log(value / low) / Math.log(high / low);
    return value => from + part(value) * (to - from);
  }

  // Where an axis from `low` to `high` has ticks, and what they say.
  function ticks(low, high, factor, count = 5) {
    const power = value => 10 ** Math.floor(Math.log10(value));
    const digits = [..."⁰¹²³⁴⁵⁶⁷⁸⁹"];
    if (!factor) {
      const rough = (high - low) / count, step = [1, 2, 5, 10].find(each => each * power(rough) >= rough) * power(rough);
      const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      const text = value => (value + 0).toLocaleString("en", {minimumFractionDigits: decimals, maximumFractionDigits: decimals})
        .replace("-", "\u2212");
      const from = Math.ceil(low / step - 1e-9), to = Math.floor(high / step + 1e-9);
      return Array.from({length: Math.max(0, to - from + 1)}, (_, i) => ({value: (from + i) * step, text: text((from + i) * step)}));
    }
    const decades = Math.log10(high / low), every = Math.max(1, Math.ceil(decades / 6));
    const leading = decades < 0.7 ? [1, 1.5, 2, 3, 4, 5, 7] : decades < 3 ? [1, 2, 5] : [1], found = [];
    for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.log10(high); exponent++) {
      for (const digit of exponent % every ? [] : leading) {
        const value = digit * 10 ** exponent;
        const high_up = String(Math.abs(exponent)).split("").map(each => digits[each]).join("");
        const short = (digit === 1 ? "" : `${digit}·`) + `10${exponent < 0 ? "⁻" : ""}${high_up}`;
        const text = exponent < -3 || exponent > 5 ? short : value.toLocaleString("en", {maximumSignificantDigits: 3});
        if (value >= low && value <= high) found.push({value, text});
      }
    }
    return found;
  }

  // The explorable of that name: its numbers, and the place where its live part begins.
  function begin(name, live) {
    const box = document.getElementById(`explorable-${name}`);
    box.insertAdjacentHTML("beforeend", `<div class="explorable-live" role="group">${live}</div>`);
    box.classList.add("is-live");
    const parts = selector => box.querySelector(`.explorable-live ${selector}`);
    return {numbers: JSON.parse(box.dataset.numbers), parts};
  }

  // Writes numbers into the cells that are named after them.
  function show(parts, numbers, kind = "now") {
    for (const [name, value] of Object.entries(numbers)) {
      const cell = parts(`[data-${kind}="${name}"]`);
      if (cell) cell.textContent = three(value);
    }
  }

  // Says a sentence when the reader has stopped moving, so that a screen reader says it once.
  function speaker(place) {
    let waiting = 0;
    return sentence => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { place.textContent = sentence; }, 300);
    };
  }

  // A button that moves a slider from step to step, from the start again where the slider is at its
  // end. Nothing moves before the button is pressed. Who asked for less motion sees ten stills, one
  // a press where the picture is not `aloneWhenCalm`.
  function player(button, slider, name, {aloneWhenCalm = true} = {}) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    const tenth = () => Math.ceil((slider.max - slider.min) / 10), byHand = () => calm.matches && !aloneWhenCalm;
    let timer = 0;
    const rest = () => {
      button.textContent = byHand() ? `${tenth().toLocaleString("en")} steps on` : `\u25b6 Play ${name}`;
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      rest();
    };
    const step = by => {
      slider.valueAsNumber += by;
      slider.dispatchEvent(new Event("input"));
      if (slider.valueAsNumber >= slider.max) stop();
    };
    button.addEventListener("click", () => {
      if (timer) return stop();
      if (slider.valueAsNumber >= slider.max) slider.valueAsNumber = slider.min;
      if (byHand()) return step(tenth());
      const unit = Number(slider.step) || 1;
      timer = setInterval(step, calm.matches ? 1000 : 100, calm.matches ? tenth() : unit);
      button.textContent = `\u23f8 Pause ${name}`;
    });
    calm.addEventListener("change", stop);
    stop();
    return stop;
  }

  return {
    three, product, applied, scaled, decomposed, composed, rotation, geometry, measure,
    draw, through, linear, logarithmic, ticks, begin, show, speaker, player,
  };
})();
