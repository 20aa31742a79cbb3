// Numbers, formulas, the graph with its panel, and the table of operations.
function drawCards(results) {
  const one = results[state.pipeline];
  const capacity = valueOf("M");
  $("cards").replaceChildren(...variant().metrics.map(([name, unit]) => {
    const value = one.metrics[name];
    const extra = [];
    if (name === "memory" && Number.isFinite(capacity)) {
      const share = value / capacity;
      extra.push(h("span", { class: "meter", role: "img", "aria-label": `${percent(share)} of the capacity` }, h("span", { class: share > 1 ? "over" : "", "width%": Math.min(100, 100 * share) })));
      extra.push(h("span", { class: share > 1 ? "warning" : "note" }, share > 1 ? `⚠ does not fit: ${percent(share)} of ${shown(capacity, "byte")}` : `${percent(share)} of ${shown(capacity, "byte")}`));
    }
    if (name === "tpot") extra.push(h("span", { class: "note" }, `a decode step at T = ${digits(valueOf("T"), 12)}`));
    if (name === "cost_per_token" && !Number.isFinite(value)) extra.push(h("span", { class: "note" }, "the device states no price: set one"));
    return h("div", { class: "card" }, h("h3", {}, TITLES[name] || name),
      h("output", { "data-metric": name, "data-value": value }, shown(value, unit)), ...extra);
  }));
  const limits = one.limits.map((x) => `${x.what} = ${digits(x.value, 12)} exceeds ${digits(x.bound, 12)}: ${x.why}`);
  const outside = limits.length ? [`Outside what the model describes: ${limits.join("; ")}.`] : [];
  const text = [...outside, ...(one.beyond ? [`⚠ ${one.beyond}`] : [])].join(" ");
  $("limits").hidden = text === "";
  if ($("limits").textContent !== text) $("limits").textContent = text;
}

let speaking = 0;
function unspoken() {
  clearTimeout(speaking);
  $("spoken").textContent = "";
}

function speak(results) {
  clearTimeout(speaking);
  const one = results[state.pipeline], metrics = variant().metrics; // what is to be seen may be another by then
  speaking = setTimeout(() => {
    const wanted = metrics.filter(([n]) => ["ttft", "tpot", "latency", "throughput", "memory"].includes(n));
    const full = tooLarge(one.metrics.memory) ? "; the memory does not fit" : "";
    $("spoken").textContent = wanted.map(([n, unit]) => `${TITLES[n]} ${shown(one.metrics[n], unit)}`).join(", ") + full;
  }, 500);
}

// What the tables of pipelines and of devices share: the metrics that there are, a line of names, and
// the numbers of a row, with the speed-up over the first row that has any.
const comparedMetrics = () => ["ttft", "tpot", "latency", "throughput", "memory", "energy_per_token", "cost_per_token"].filter((n) => unitOf(n));
const headsOf = (names) => names.map((t) => over(HEADS[t] || t, { title: TITLES[t] }));
const baseOf = (results) => { const first = results.find((one) => one); return first ? first.metrics.latency : NaN; };
const numbersOf = (one, base, names, device) => [
  h("td", { class: "number" }, `${digits(base / one.metrics.latency, 3)}×`),
  ...names.map((n) => h("td", { "data-metric": n, "data-value": one.metrics[n], class: "number" }, shown(one.metrics[n], unitOf(n)), n === "memory" && tooLarge(one.metrics[n], device) ? h("span", { class: "warning" }, " ⚠ too large") : null))];

function drawPipelines(results) {
  const names = comparedMetrics(), base = baseOf(results);
  const heads = headsOf(["details", "compare", "pipeline", "speed-up", ...names]);
  const rows = DATA.pipelines.map((text, p) => {
    const one = results[p];
    if (!one) return failed(`${letter(p)}: `, text, variant(p).error, names.length + 1, h("td", { colspan: 2 }));
    return h("tr", { class: p === state.pipeline ? "chosen" : "" },
      h("td", {}, h("input", { type: "radio", name: "pipeline", value: p, id: `show-${p}`, checked: p === state.pipeline, "aria-label": `show the details of ${letter(p)}`, onchange: () => { state.pipeline = p; update(true); } })),
      h("td", {}, h("input", { type: "checkbox", id: `compare-${p}`, checked: !state.left.has(text), "aria-label": `compare ${letter(p)}`, onchange: (e) => {
        if (e.target.checked) state.left.delete(text); else state.left.add(text);
        if (!compared().length) state.left.delete(text);
        update();
      } })),
      h("th", { scope: "row" }, `${letter(p)}: `, breakable(text)),
      ...numbersOf(one, base, names));
  });
  keepFocus(() => tabled($("pipelines"), heads, rows));
}

// A row that says why there are no numbers.
const failed = (mark, text, why, columns, first) => h("tr", { class: "failed" },
  first, h("th", { scope: "row" }, mark, breakable(text)),
  h("td", { colspan: columns, class: "warning" }, why));

// The chosen pipeline on every device.
function drawDevices() {
  $("machines-part").hidden = DATA.devices.length < 2;
  if ($("machines-part").hidden) return;
  const names = comparedMetrics();
  const results = DATA.devices.map((_, d) => (works(state.pipeline, d) ? evaluate(DATA.variants[d][state.pipeline], null, d) : null));
  const base = baseOf(results), heads = headsOf(["details", "machine", "devices", "speed-up", ...names]);
  const rows = DATA.devices.map((device, d) => {
    const one = results[d];
    const radio = h("input", { type: "radio", name: "machine", value: d, id: `on-${d}`, checked: d === state.device, "aria-label": `show the details of ${device.name}`, onchange: () => { $("device").value = d; chooseDevice(d); } });
    if (!one) return failed("", device.name, DATA.variants[d][state.pipeline].error, names.length + 2, h("td", {}, DATA.pipelines.some((_, p) => works(p, d)) ? radio : null));
    return h("tr", { class: d === state.device ? "chosen" : "" },
      h("td", {}, radio),
      h("th", { scope: "row", title: device.title }, device.name),
      h("td", { class: "number" }, digits(DATA.variants[d][state.pipeline].devices)),
      ...numbersOf(one, base, names, d));
  });
  keepFocus(() => tabled($("machines"), heads, rows));
}

// Rebuilding a part of the page must not throw the reader out of it.
function keepFocus(work) {
  const id = document.activeElement && document.activeElement.id;
  work();
  if (id && (!document.activeElement || document.activeElement.id !== id) && $(id)) $(id).focus({ preventScroll: true });
}

function drawFormula() {
  const one = variant(), formulas = one.formulas || {};
  $("assumptions").replaceChildren(...one.assumptions.map((a) => h("li", {}, a)));
  const names = one.metrics.map(([n]) => n).filter((n) => one.more || Object.keys(formulas[n] || {}).length);
  state.metric = options($("formula-metric"), names.map((n) => [n, TITLES[n] || n]), state.metric);
  const waits = names.length > 0 && !(state.metric in formulas);
  busy("formula", waits);
  $("formula-detail").disabled = waits;
  if (waits) { // an explorer asks for what is long to print when it is to be read, a metric at a time
    const metric = state.metric;
    $("formula").replaceChildren(h("p", { class: "hint" }, `Printing the formula of the ${TITLES[metric] || metric} …`));
    one.more(metric, () => { if (variant() === one && state.metric === metric) drawFormula(); });
    return;
  }
  const details = Object.keys(formulas[state.metric] || {});
  const chosen = options($("formula-detail"), details.map((d) => [d, d === "ops" ? "by operations" : "summary: bounds per resource"]), state.detail);
  $("formula").replaceChildren(chosen ? own(formulas[state.metric][chosen])
    : h("p", { class: "hint" }, `${names.length ? "This metric" : "No metric of this pipeline"} has no formula to print here: costgraph formula says why.`));
}

function drawRates() {
  const figures = Object.keys(DATA.devices[state.device].figures);
  $("rates").replaceChildren(h("p", { class: "hint" }, "now: ", figures.map((n) => `${n} = ${figureText(n, valueOf(n))}`).join(", ")));
}

// --- the graph -------------------------------------------------------------------

let drawnGraph = null, zoom = 1, byVertex = new Map();

function drawGraph() {
  const whole = phase().graph, graph = state.level === "folded" && whole.folded ? whole.folded : whole;
  $("graph-level").parentElement.hidden = !whole.folded;
  byVertex = new Map();
  graph.rows.forEach((vertex, row) => { if (vertex >= 0) byVertex.set(vertex, [...(byVertex.get(vertex) || []), row]); });
  if (graph === drawnGraph) return;
  drawnGraph = graph;
  if (openPart !== null) { openPart = null; $("panel").hidden = true; }
  $("graph-notes").replaceChildren(...graph.notes.map((n) => h("li", {}, n)));
  if (graph.more) {
    $("graph").replaceChildren(h("p", { class: "hint" }, "Drawing the graph …"));
    buildMap();
    graph.more(() => { if (drawnGraph === graph) { drawnGraph = null; update(); } });
    return;
  }
  if (graph.svg === null) {
    $("graph").replaceChildren(h("p", {}, "No picture: it needs Graphviz when the report is made (the program dot, or pip install 'costgraph[draw]'). The table below lists every operation."));
    buildMap();
    return;
  }
  $("graph").replaceChildren(own(graph.svg));
  $("graph-search").value = "";
  $("graph-found").textContent = "";
  const nodes = [...$("graph").querySelectorAll("g.node")];
  let highest = Infinity;
  for (const node of nodes) node.parentNode.append(node); // above the lines, which would run through what is written under a box
  nodes.forEach((node, i) => {
    node.setAttribute("tabindex", i ? -1 : 0); // one stop for Tab; arrows move inside
    const box = node.getBBox();
    for (const line of node.querySelectorAll("text")) line.after(" "); // so that lines are words apart
    if (node.classList.contains("op") && box.y < highest) { highest = box.y; start = node; }
    // Under its box and no wider than that needs: beside it the next box of the row would hide it.
    if (node.classList.contains("op")) node.append(s("text", { class: "badge", x: box.x + box.width / 2, y: box.y + box.height + 8 }));
    else node.setAttribute("aria-label", seen(node));
    node.addEventListener("click", () => { focusNode(nodes, i); openVertex(Number(node.dataset.vertex)); });
    node.addEventListener("keydown", (e) => {
      if (e.key === "Enter" || e.key === " ") { e.preventDefault(); openVertex(Number(node.dataset.vertex), true); }
      const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[e.key];
      const to = e.key === "Home" ? 0 : e.key === "End" ? nodes.length - 1 : by ? i + by : -1;
      if (to >= 0 && to < nodes.length) { e.preventDefault(); focusNode(nodes, to); }
    });
  });
  fit();
  buildMap();
}

// What is to be read in a node, which its name begins with.
const seen = (node) => [...node.querySelectorAll("text")].map((t) => t.textContent.trim()).filter(Boolean).join(" ");

function focusNode(nodes, i) {
  for (const node of nodes) node.setAttribute("tabindex", -1);
  nodes[i].setAttribute("tabindex", 0);
  nodes[i].focus();
}

let start = null; // the highest operation of the picture, which is in sight at first
function fit() {
  const svg = $("graph").querySelector("svg");
  if (!svg) return;
  zoom = Math.min(1, Math.max(0.3, ($("graph").clientWidth - 8) / (Number(svg.dataset.width) * 4 / 3)));
  setZoom(zoom);
  if (start && start.isConnected) inSight(start);
}

// Brings a node of the picture to the middle along the axes on which it is not wholly to be seen.
function inSight(node) {
  const place = $("graph"), a = node.getBoundingClientRect(), b = place.getBoundingClientRect();
  if (a.left < b.left || a.right > b.right) place.scrollLeft += a.left + a.width / 2 - b.left - b.width / 2;
  if (a.top < b.top || a.bottom > b.bottom) place.scrollTop += a.top + a.height / 2 - b.top - b.height / 2;
}

// The panel takes room from the picture: what it tells of stays in sight.
function openedPanel(vertex, focus) {
  $("panel").hidden = false;
  const node = $("graph").querySelector(`g.node[data-vertex="${vertex}"]`);
  if (node) inSight(node);
  if (focus) $("panel").focus();
}

function setZoom(to) {
  zoom = Math.min(4, Math.max(0.1, to));
  const svg = $("graph").querySelector("svg");
  if (svg) { svg.style.width = `${svg.dataset.width * zoom * 4 / 3}px`; svg.style.height = "auto"; }
  frameMap();
}

// Rows of the operations that a vertex stands for, and what they take together. Bound is what bounds
// most of their time.
const rowsOf = (vertex, rows) => (byVertex.get(vertex) || []).map((i) => rows[i]);
function summed(rows) {
  const times = new Map();
  for (const r of rows) times.set(r.bound, (times.get(r.bound) || 0) + r.total);
  const [bound, most] = [...times].reduce((a, b) => (b[1] > a[1] ? b : a), ["none", 0]);
  const sum = (key) => rows.reduce((all, r) => all + r[key], 0);
  return { bound, most, total: sum("total"), share: sum("share") };
}

function paintGraph(rows) {
  for (const node of $("graph").querySelectorAll("g.node.op")) {
    const mine = rowsOf(Number(node.dataset.vertex), rows), sum = summed(mine);
    node.setAttribute("class", `node op b-${sum.bound}${mine.some((r) => r.index === state.selected) ? " selected" : ""}`);
    const share = sum.share >= 0.0005 ? ` ${percent(sum.share)}` : "", time = mine.length > 1 ? ` ${shown(sum.total, "s")}` : "";
    const text = sum.total > 0 ? `${MARKS[sum.bound]}${time}${share}` : "";
    const badge = node.querySelector(".badge");
    if (badge && badge.textContent !== text) badge.textContent = text;
    node.setAttribute("aria-label", `${seen(node)}${sum.total > 0 ? ` of the time, ${mine.length > 1 ? "mostly " : ""}bound by ${sum.bound}` : ""}`);
  }
}

// Nodes whose name or kind holds what is typed; the others fade. Enter goes to the next one.
let hits = [], hit = -1;
function findNodes() {
  const wanted = $("graph-search").value.trim().toLowerCase(), nodes = [...$("graph").querySelectorAll("g.node")];
  hits = [];
  hit = -1;
  nodes.forEach((node, i) => {
    const found = !wanted || seen(node).toLowerCase().includes(wanted);
    node.style.opacity = found ? "" : "0.25";
    if (wanted && found) hits.push(i);
  });
  $("graph-found").textContent = wanted ? `${hits.length} of ${nodes.length}` : "";
  paintMap();
}

function nextNode() {
  if (!hits.length) return;
  hit = (hit + 1) % hits.length;
  const nodes = [...$("graph").querySelectorAll("g.node")], node = nodes[hits[hit]];
  node.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
  openVertex(Number(node.dataset.vertex));
}

// A drag moves the picture, as the bars beside it do; a wheel with Ctrl zooms.
function wireGraph() {
  const place = $("graph");
  let from = null;
  place.addEventListener("pointerdown", (e) => {
    if (e.pointerType === "mouse" && e.button === 0 && !e.target.closest("g.node")) from = { x: e.clientX + place.scrollLeft, y: e.clientY + place.scrollTop };
  });
  document.addEventListener("pointermove", (e) => {
    if (!from) return;
    place.classList.add("moving");
    place.scrollTo({ left: from.x - e.clientX, top: from.y - e.clientY, behavior: "instant" });
  });
  document.addEventListener("pointerup", () => { from = null; place.classList.remove("moving"); });
  place.addEventListener("wheel", (e) => {
    if (!e.ctrlKey) return;
    e.preventDefault();
    setZoom(zoom * (e.deltaY < 0 ? 1.1 : 1 / 1.1));
  }, { passive: false });
  $("graph-search").addEventListener("input", findNodes);
  $("graph-search").addEventListener("keydown", (e) => { if (e.key === "Enter") { e.preventDefault(); nextNode(); } });
}

// --- the panel -------------------------------------------------------------------

let opener = null, openPart = null; // what had the focus; the vertex of several operations that is open

function openVertex(vertex, keyboard) {
  opener = document.activeElement;
  const mine = byVertex.get(vertex) || [];
  if (mine.length === 1) { select(mine[0], keyboard); return; }
  const [name, kind, role, lines] = drawnGraph.vertices[vertex];
  state.selected = null;
  openPart = mine.length ? vertex : null;
  update();
  $("panel-title").textContent = name;
  $("panel-body").replaceChildren(h("p", {}, [kind === "source" ? "" : kind, role, lines].filter(Boolean).join(", ")), h("div", { id: "panel-parts" }));
  openedPanel(vertex, keyboard);
}

function select(index, focus) {
  if (focus) opener = document.activeElement;
  state.selected = index;
  openPart = null;
  update();
  openedPanel(drawnGraph ? drawnGraph.rows[index] : -1, focus);
}

function closePanel() {
  $("panel").hidden = true;
  state.selected = null;
  openPart = null;
  update();
  if (opener && opener.isConnected) opener.focus();
}

const tensorLine = ([name, dtype, shape, role]) => h("li", {}, h("b", {}, name), ` ${role}, ${dtype} [${shape}]`);

// A vertex of several operations: their time together, and those that take most of it.
const MOST_PARTS = 40;
function drawParts(rows) {
  const place = $("panel-parts");
  if (openPart === null || !place) return;
  const mine = rowsOf(openPart, rows).sort((a, b) => b.total - a.total), { bound, most, total, share } = summed(mine);
  const left = mine.length - MOST_PARTS;
  keepFocus(() => put(place,
    h("p", {}, `${mine.length} operations together: `, h("output", { "data-field": "part", "data-value": total }, shown(total, "s")), `, ${percent(share)} of the step`),
    total > 0 ? h("p", {}, `${percent(most / total)} of this bound by ${bound}`) : null,
    h("ul", {}, mine.slice(0, MOST_PARTS).map((r) => h("li", {}, h("button", { type: "button", id: `part-${r.index}`, onclick: () => select(r.index, true) }, r.name), ` ${shown(r.total, "s")}, ${percent(r.share)}`))),
    left > 0 ? h("p", { class: "hint" }, `and ${left} more, which take less: see the table of operations`) : null));
}

function drawPanel(rows) {
  drawParts(rows);
  const row = state.selected === null ? null : rows[state.selected];
  if (!row) { if (state.selected !== null) { state.selected = null; $("panel").hidden = true; } return; }
  const [, , operands, results, madeBy, origin, inside, region] = row.node, [flops, moved, count] = row.formulas;
  const line = (name, ...value) => [h("dt", {}, name), h("dd", {}, ...value)];
  $("panel-title").textContent = row.name;
  put($("panel-body"),
    h("dl", {},
      line("kind", row.kind), region ? line("in", region) : [],
      line("time of one", h("output", { "data-field": "seconds", "data-value": row.seconds }, shown(row.seconds, "s"))),
      line("runs in the step", h("output", { "data-field": "count", "data-value": row.count }, digits(row.count, 8))),
      line("share of the step", `${percent(row.share)} (${shown(row.total, "s")})`),
      line("bound by", row.bound === "latency" ? "latency: launch and other fixed time" : row.bound + (row.unit ? `, ${row.unit}` : "")),
      line("FLOP", h("output", { "data-field": "flops", "data-value": row.flops }, shown(row.flops, "FLOP"))),
      line("bytes", h("output", { "data-field": "bytes", "data-value": row.bytes }, shown(row.bytes, "byte")), row.roles.length > 1 ? ` (${row.roles.map(([r, v]) => `${r} ${shown(v, "byte")}`).join(", ")})` : ""),
      line("FLOP/byte", digits(row.intensity) === "NaN" ? "–" : digits(row.intensity))),
    h("h4", {}, "Cost of one"),
    h("dl", {}, line("FLOP", own(flops)), line("bytes", own(moved)), line("runs", own(count))),
    h("h4", {}, "Operands"), h("ul", {}, operands.map(tensorLine)),
    h("h4", {}, "Results"), h("ul", {}, results.map(tensorLine)),
    inside.length ? h("details", {}, h("summary", {}, `made of ${inside.length} operations`), h("ul", {}, inside.map((t) => h("li", {}, t)))) : null,
    h("h4", {}, "Provenance"),
    h("p", {}, `made by ${madeBy}${origin.length ? `, from ${origin.join(", ")}` : ""}`));
}

// --- the table -------------------------------------------------------------------

const COLUMNS = [
  ["name", "operation"], ["kind", "kind"], ["count", "count"], ["flops", "FLOP"], ["bytes", "bytes"],
  ["intensity", "FLOP/B"], ["seconds", "time of one"], ["total", "time"], ["share", "share"], ["bound", "bound"],
];
const MOST_ROWS = 200;

function drawTable(rows) {
  const { key: by, down } = state.sort, wanted = state.filter.toLowerCase();
  const found = rows.filter((r) => `${r.name} ${r.kind} ${r.bound}`.toLowerCase().includes(wanted));
  const order = (r) => (typeof r[by] === "number" ? (Number.isNaN(r[by]) ? -1 : r[by]) : r[by]);
  found.sort((a, b) => {
    const x = order(a), y = order(b);
    return (x < y ? -1 : x > y ? 1 : a.index - b.index) * (down && x !== y ? -1 : 1);
  });
  const some = state.everything ? found : found.slice(0, MOST_ROWS);
  const heads = COLUMNS.map(([name, text]) => h("th", { scope: "col", "aria-sort": by !== name ? "none" : down ? "descending" : "ascending" },
    h("button", { type: "button", id: `sort-${name}`, onclick: () => {
      state.sort = { key: name, down: by === name ? !down : !["name", "kind", "bound"].includes(name) };
      update();
    } }, text, by === name ? (down ? " ▼" : " ▲") : "")));
  const number = (field, row, text) => h("td", { class: "number", "data-field": field, "data-value": row[field] }, text);
  const body = some.map((r) => h("tr", { class: r.index === state.selected ? "chosen" : "", "data-row": r.name },
    h("th", { scope: "row" }, h("button", { type: "button", id: `op-${r.index}`, onclick: () => select(r.index, true) }, r.name)),
    h("td", {}, r.kind), number("count", r, digits(r.count, 8)), number("flops", r, shown(r.flops, "")), number("bytes", r, shown(r.bytes, "")),
    number("intensity", r, Number.isNaN(r.intensity) ? "–" : digits(r.intensity)), number("seconds", r, shown(r.seconds, "s")),
    number("total", r, shown(r.total, "s")), number("share", r, percent(r.share)),
    h("td", {}, r.bound in MARKS ? `${MARKS[r.bound]} ${r.bound}` : "none")));
  keepFocus(() => tabled($("ops"), heads, body));
  const count = some.length < found.length ? `${some.length} of ${found.length} shown` : `${found.length} of ${rows.length} operations`;
  if ($("ops-count").textContent !== count) $("ops-count").textContent = count;
  $("ops-all").hidden = some.length === found.length;
}
