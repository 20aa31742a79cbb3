// Wiring: what happens once, and what is redrawn after every change.
let waiting = 0;

// One redraw a frame, numbers first; other pipelines also change what there is to choose from.
function update(structure = false) {
  interrupt();
  if (structure) setup();
  if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); });
}

function draw() {
  drawNumbers();
  begun(drawRest());
}

function drawNumbers() {
  const results = DATA.pipelines.map((_, p) => (works(p) ? evaluate(variant(p)) : null));
  $("refused").hidden = works(state.pipeline);
  $("refused").textContent = variant().error || "";
  for (const part of document.querySelectorAll(".live")) part.hidden = !works(state.pipeline);
  drawPipelines(results);
  drawDevices();
  if (!works(state.pipeline)) { unspoken(); $("plans-part").hidden = true; return; }
  drawCards(results);
  drawBars(results);
  drawRates();
  speak(results);
}

// All at once, where somebody else is about to read the page.
function finish() {
  moved();
  if (waiting) { cancelAnimationFrame(waiting); waiting = 0; draw(); }
  proceed(Infinity);
}

// What takes longer is of another choice until it is drawn: hidden, and its place says that it comes.
const LATER = ["steps", "curves", "load"];
function busy(id, now) {
  if (now) $(id).setAttribute("aria-busy", "true"); else $(id).removeAttribute("aria-busy");
}

// What takes longer: one step, operation by operation, the curve, plans and the load. Yields wherever
// the page may go on to something else.
function* drawRest() {
  rested = false;
  if (!works(state.pipeline)) return;
  const now = step(phase());
  $("step-total").textContent = now.busy < now.total * (1 + 1e-9) ? `all operations: ${shown(now.total, "s")}`
    : `the step: ${shown(now.total, "s")}; its operations, some of which run at the same time: ${shown(now.busy, "s")}`;
  $("step-total").dataset.value = now.total;
  drawPanel(now.rows);
  if (!rests("graph")) {
    drawGraph();
    paintGraph(now.rows);
    paintMap();
    yield;
  }
  if (!rests("roofline")) {
    keepFocus(() => drawRoofline(now.rows));
    yield;
  }
  if (!rests("ops")) drawTable(now.rows);
  busy("steps", false);
  yield;
  if (!rests("curves")) {
    yield* drawCurve();
    busy("curves", false);
    yield;
  }
  drawPlans();
  drawServers();
  yield;
  if (!rests("load")) {
    yield* drawLoad();
    busy("load", variant().load === null);
  }
}

function setup() {
  facts();
  for (const id of LATER) busy(id, true);
  if (!works(state.pipeline)) return;
  const before = state.phase, names = phases().map((p) => [p.name, p.name]);
  const preferred = phases().some((p) => p.name === before) ? before : (phases().find((p) => p.context !== null) || phases()[0]).name;
  state.phase = options($("phase"), names, preferred);
  state.selected = null;
  $("panel").hidden = true;
  for (const place of document.querySelectorAll(".of-pipeline")) place.textContent = `of ${letter(state.pipeline)}: ${DATA.pipelines[state.pipeline]}`;
  drawFormula();
  const metrics = Object.keys(TITLES).filter((n) => unitOf(n));
  state.curve.metric = options($("curve-metric"), metrics.map((n) => [n, TITLES[n]]), state.curve.metric);
  const symbols = [...DATA.controls.map((c) => c.name), ...Object.keys(DATA.devices[state.device].figures)].filter((n) => n !== "price");
  state.curve.symbol = options($("curve-symbol"), symbols.map((n) => [n, n]), state.curve.symbol);
  options($("stack"), Object.entries(STACKS), state.stack);
}

function facts() {
  const count = variant().parameters || 0, held = variant().held;
  const each = held ? `; ${held}` : "";
  const text = [DATA.devices.map((d) => d.title).join(", "), ...DATA.conventions].join(" · ");
  $("notes").replaceChildren(...DATA.remarks.map((note) => h("li", {}, note)));
  $("facts").textContent = count ? `${shown(count, "").replace("G", "B").trim()} parameters (${Math.round(count).toLocaleString("en")})${variant().parameters_on ? ` ${variant().parameters_on}` : ""}${each} · ${text}` : text;
}

// Shows what there is to show; called again where that changes.
function present(data) {
  begin(data);
  for (const item of document.querySelectorAll(".fitted")) item.hidden = !calibrated();
  $("times").textContent = calibrated() ? `Times are fitted to measured timings of kernels (fidelity ${DATA.setting.fidelity}); the assumptions state their errors.`
    : "Times are a roofline on stated peaks: a lower bound on what the device can do.";
  buildControls();
  buildLoad();
  setup();
  draw();
  document.documentElement.dataset.ready = "true";
}

// What is wired once.
function wire() {
  wireControls();
  wireGraph();
  wireMap();
  wireSight();
  // On paper nothing can be opened; what the print opened closes again.
  const closed = [];
  window.addEventListener("beforeprint", () => {
    finish();
    closed.push(...document.querySelectorAll("main details:not([open])"));
    for (const item of closed) item.open = true;
  });
  window.addEventListener("afterprint", () => { for (const item of closed.splice(0)) item.open = false; });
  const follow = (id, set, structure) => $(id).addEventListener("change", () => { set($(id)); update(structure); });
  follow("phase", (e) => { state.phase = e.value; state.selected = null; $("panel").hidden = true; busy("steps", true); });
  follow("graph-level", (e) => { state.level = e.value; });
  follow("stack", (e) => { state.stack = e.value; });
  follow("curve-metric", (e) => { state.curve.metric = e.value; busy("curves", true); });
  follow("curve-symbol", (e) => { state.curve.symbol = e.value; busy("curves", true); });
  follow("curve-log", (e) => { state.curve.log = e.checked; });
  $("formula-metric").addEventListener("change", () => { state.metric = $("formula-metric").value; drawFormula(); });
  $("formula-detail").addEventListener("change", () => { state.detail = $("formula-detail").value; drawFormula(); });
  $("filter").addEventListener("input", () => { state.filter = $("filter").value; update(); });
  $("ops-all").addEventListener("click", () => { state.everything = true; update(); });
  $("zoom-in").addEventListener("click", () => setZoom(zoom * 1.25));
  $("zoom-out").addEventListener("click", () => setZoom(zoom / 1.25));
  $("zoom-fit").addEventListener("click", fit);
  $("plans-get").addEventListener("click", () => { state.plans = true; update(); });
  $("plans-by").addEventListener("change", () => { state.plansBy = $("plans-by").value; update(); });
  $("panel-close").addEventListener("click", closePanel);
  document.addEventListener("keydown", (e) => { if (e.key === "Escape" && !$("panel").hidden) closePanel(); });
  $("controls").addEventListener("submit", (e) => e.preventDefault());
}
