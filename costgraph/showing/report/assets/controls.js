// Sliders with number fields. A slider steps through round values, so that one key press is one step.
function stopsUpTo(largest) {
  const found = [];
  for (let p = 1; p <= largest; p *= 2) {
    found.push(p);
    if (p > 1 && p * 1.5 <= largest) found.push(p * 1.5);
  }
  return found;
}

function stopsOf(control) {
  if (control.kind === "size") return stopsUpTo(Math.max(control.largest / control.step, 1)).map((x) => x * control.step);
  if (control.kind === "probability") return Array.from({ length: 19 }, (_, i) => (i + 1) / 20);
  return [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, ...stopsUpTo(1024)];
}

const around = (value) => Array.from({ length: 33 }, (_, i) => (i === 16 ? value : value * 2 ** ((i - 16) / 4)));

function nearest(stops, value) {
  let best = 0;
  stops.forEach((stop, i) => {
    if (Math.abs(Math.log(stop / value)) < Math.abs(Math.log(stops[best] / value))) best = i;
  });
  return best;
}

// Parts out of sight rest until the slider does (sight.js, report.css).
const PAUSE = 300; // milliseconds
let pause = 0;
function moving() {
  document.documentElement.dataset.moving = "true";
  clearTimeout(pause);
  pause = setTimeout(moved, PAUSE);
}

// The slider rests: what waited for it is drawn.
function moved() {
  clearTimeout(pause);
  delete document.documentElement.dataset.moving;
  if (rested) update();
}

const digitsOf = (value) => String(Number(value.toPrecision(6)));

// One control: label, slider, field. get and set work in base units; scale is the field's.
function control({ id, label, unit, scale, stops, allowed, get, set }) {
  const slider = h("input", { type: "range", id: `${id}-slider`, min: 0, max: stops.length - 1, step: 1, "aria-label": `${label}, slider` });
  const field = h("input", { type: "number", id, min: allowed.whole ? 1 : 0, max: digitsOf(allowed.most / scale), step: allowed.whole ? 1 : "any", "aria-describedby": `${id}-error` });
  const error = h("span", { class: "error", id: `${id}-error`, role: "alert" });
  const text = (v) => (v === null || v === undefined ? "" : String(Number((v / scale).toPrecision(12))));
  const refresh = (keep) => {
    const value = get();
    if (!keep) field.value = text(value);
    slider.value = value ? nearest(stops, value) : 0;
    slider.setAttribute("aria-valuetext", value ? `${text(value)} ${unit}`.trim() : "not set");
    error.textContent = "";
    field.removeAttribute("aria-invalid");
  };
  slider.addEventListener("input", () => { moving(); set(stops[Number(slider.value)]); refresh(); update(); });
  field.addEventListener("input", () => {
    const value = Number(field.value) * scale;
    if (field.value === "" || !allows(allowed, value)) {
      error.textContent = allowed.whole ? `a whole number from 1 to ${allowed.most < 1e6 ? allowed.most : allowed.most.toExponential().replace("+", "")}` : `a number from ${digitsOf(allowed.least / scale)} to ${digitsOf(allowed.most / scale)}`;
      field.setAttribute("aria-invalid", "true");
      return;
    }
    set(value);
    refresh(true);
    update();
  });
  field.addEventListener("change", () => refresh());
  refresh();
  const node = h("div", { class: "control" },
    h("label", { for: id }, label), slider,
    h("span", { class: "field" }, field, unit ? h("span", { class: "unit" }, unit) : null), error);
  // What is shown follows where it is not set by hand.
  node.refresh = () => { if (document.activeElement !== field) refresh(); };
  return node;
}

const SHORT = { B: "batch B", S: "prompt S", N: "generated N", T: "context T (a decode step)", K: "denoising steps K", price: "price, USD per hour" };

function buildControls() {
  $("sizes").replaceChildren(...DATA.controls.map((c) => control({
    id: `value-${c.name}`,
    label: SHORT[c.name] || `${c.name}: ${c.meaning}`,
    unit: ["S", "N", "T", "G"].includes(c.name) ? "tokens" : c.name === "B" ? "sequences" : "",
    scale: 1, stops: stopsOf(c), allowed: allowedValue(c),
    get: () => state.values[c.name], set: (v) => { state.values[c.name] = v; state.given[c.name] = v; },
  })));
  options($("device"), DATA.devices.map((d, i) => [i, d.title === d.name ? d.name : `${d.name} – ${d.title}`]), state.device);
  buildFigures();
}

function chooseDevice(index) {
  state.device = index;
  settle();
  buildFigures();
  update(true);
}

function wireControls() {
  $("device").addEventListener("change", () => chooseDevice(Number($("device").value)));
  $("reset").addEventListener("click", () => {
    const device = DATA.devices[state.device];
    state.figures[state.device] = { ...device.figures, M: device.capacity };
    delete state.changed[device.name];
    buildFigures();
    update();
  });
  const themes = ["system", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "system";
    const next = themes[(themes.indexOf(now) + 1) % themes.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    $("theme").textContent = `Theme: ${next}`;
  });
}

function buildFigures() {
  const device = DATA.devices[state.device];
  $("figures").replaceChildren(...statedFigures(device).map(([name, value]) => {
    const [scale, unit, label] = figureUnit(name);
    return control({
      id: `figure-${name}`, label, unit, scale, stops: around(value), allowed: allowedFigure(value),
      get: () => state.figures[state.device][name],
      set: (v) => { state.figures[state.device][name] = v; (state.changed[device.name] ||= {})[name] = v; },
    });
  }));
}
