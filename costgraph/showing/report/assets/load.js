// A server under load. The forms are costgraph/asking/serving/forms.py, printed as FORMS; steps and
// memory are formulas of the pipeline, printed as everything else.
const POLICIES = { chunked: "decodes, prompt chunks", continuous: "decodes, whole prompts", "prefill-first": "a prompt, or decodes" };
// Chunks of one prompt that are added up, and loads of the curves.
const MOST_CHUNKS = 512, LOADS = Array.from({ length: 24 }, (_, i) => 0.02 + (0.96 * i) / 23);

const listed = (x) => (Array.isArray(x) ? x : [x]);
const remembered = (f) => {
  const known = new Map();
  return (...given) => {
    const key = given.join();
    if (!known.has(key)) known.set(key, f(...given));
    return known.get(key);
  };
};

// Seconds of a server's steps at the page's sizes and figures.
function timesOf(queue, longest, device) {
  const of = (f) => remembered((...at) => listed(run(f, Object.fromEntries(["c", "T", "C", "P", "c_most", "C_most"].map((name, i) => [name, at[i]])), device)));
  const decodes = of(queue.decode), prompts = of(queue.prompt), both = of(queue.joint), { replicas } = queue;
  const fullest = (c) => FORMS.fullest(c, replicas), place = (context) => FORMS.placed(context, longest);
  const joint = (c, T, n, end, most) => both(c, T, n, end, fullest(c), most);
  const times = {
    longest, overlaps: queue.overlaps, replicas, lanes: 1, stretch: 1,
    decode: (c, context) => { const [looking, others] = decodes(c, place(context), 0, 0, fullest(c), 0); return looking + others; },
    beside: (c, context) => joint(c, place(context), 1, 1, 1)[1],
    looking: (n, end) => prompts(0, 0, n, end, 0, n)[n === end ? 2 : 0],
    alone: (n, most) => prompts(0, 0, n, n, 0, most)[1],
    shared: (c, n, most) => joint(c, 1, n, n, most)[0],
    together: (c, context, n, end, most) => joint(c, place(context), n, end, most)[0],
    step: (c, context, chunks) => FORMS.stepped(times, c, context, chunks),
  };
  return times;
}

// Sequences whose caches fit beside a step that reads a chunk; null where no capacity is stated.
function roomFor({ memory, values, replicas }, device, tokens, prompt, whole) {
  const size = valueOf("M", null, device);
  if (!Number.isFinite(size)) return null;
  const at = (T, q) => listed(run(values, { T, q }, device)), held = at(whole, tokens), reading = at(prompt, tokens);
  const lines = memory.units.flatMap((u) => {
    const weights = held[u.weights], caches = held[u.caches], chunk = Math.max(0, ...u.prompt.map((i) => reading[i]));
    return [FORMS.caching(size, FORMS.MEMORY_SHARE, weights, caches), ...u.decode.map(([once, each]) => FORMS.living(size, weights, held[once], held[each], chunk, caches, 1))];
  });
  for (const [, there, once, each] of memory.far) lines.push([there, held[once], held[each]]);
  return replicas * Math.min(...lines.map((line) => FORMS.fitting(...line)));
}

// The queue of a pipeline on a device, as FORMS takes it; or why there is none.
function serverOf(one, device) {
  if (!one.load || !one.load.queue) return { why: one.load ? one.load.why : "" };
  const { queue } = one.load, { policy, seqs, chunk } = state.load, S = valueOf("S"), N = valueOf("N");
  // Limits of the batch are not those of a server, whose replicas share what is there.
  const [least, most] = [1, 2 ** 30].map((B) => evaluate(one, { T: S + N, B }, device).limits);
  const beyond = least.filter((x) => most.some((y) => y.what === x.what));
  if (beyond.length) return { why: `prompt and answer have ${digits(S + N, 12)} positions: ${beyond[0].why}` };
  const reads = policy === "chunked" ? FORMS.chunk_of(S, chunk) : S;
  const room = roomFor(queue, device, reads, S, FORMS.placed(S + N, S + N)), limit = room === null ? seqs : Math.min(seqs, room);
  if (limit < 1) return { why: `the memory has no room for one sequence of ${digits(S + N, 12)} positions beside weights and a step`, room };
  if (policy === "chunked" && limit >= chunk) return { why: `a step of ${digits(chunk, 12)} tokens has no room for a prompt beside ${digits(limit, 12)} sequences: larger chunks, or fewer sequences`, room };
  if (policy === "chunked" && S / (chunk - limit) > MOST_CHUNKS) return { why: `a prompt of ${digits(S, 12)} tokens would take more than ${MOST_CHUNKS} steps: larger chunks`, room };
  const further = FORMS.further_of(N), gain = listed(run(queue.values, { T: S + N, q: reads }, device))[queue.gain];
  const times = Object.assign(timesOf(queue, S + N, device), { gain });
  const q = {
    kind: policy, budget: chunk, limit, S, fresh: S, servers: 1, moment: 1, varies: 0, parts: [[S, S, 1]], times, further, rounds: further / gain, gain, room,
    context: FORMS.context_of(S, N, 1), step: remembered((c) => (c ? times.decode(c, q.context) : 0)),
    through: remembered((c) => FORMS.through(q, c)), own: remembered((c) => FORMS.own(q, c)),
    longer: remembered((c) => FORMS.longer(q, c)), squared: remembered((c) => FORMS.squared(q, c)),
    get tables() { return (this.known ||= FORMS.sampled(this)); },
  };
  const [largest, many, tau] = FORMS.stable(q);
  // So many that are read in each step leave its budget no room for more.
  const filled = policy === "chunked" && many / q.rounds * q.fresh >= 0.95 * (chunk - many);
  return Object.assign(q, { why: "", largest, decoding: many, tau, byPrompts: q.rounds === 0 || filled });
}

// Means at a rate; nothing where the queue has no end.
function loadedAt(q, rate) {
  if (q.why || !(rate > 0 && rate < q.largest)) return null;
  const [ttft, tpot, place, decoding] = FORMS.means(q, rate), latency = ttft + q.further * tpot;
  return { ttft, tpot, place, decoding, latency, there: rate * latency, load: rate / q.largest, low: rate / q.largest > FORMS.HONEST && !FORMS.alone(q) };
}

// One request, or a batch of B, after another: what every model has.
function batchesOf(one, device, rate) {
  const { metrics } = evaluate(one, null, device), B = valueOf("B");
  const [largest, load, wait] = FORMS.batches(rate === null ? 0 : rate, metrics.latency, B);
  return { B, seconds: metrics.latency, largest, load, wait };
}

const hasTokens = () => unitOf("tpot") !== "";
const rounded = (x) => Number(x.toPrecision(2));
let loadControls = [];

// The rate: what was set, or half of what the first pipeline stands.
function rateOf(servers) {
  if (state.load.rate !== null) return state.load.rate;
  const first = servers.find((q) => q && Number.isFinite(q.largest));
  return first ? rounded(first.largest / 2) : null;
}

function buildLoad() {
  drawnLoad = {};
  const rates = Array.from({ length: 97 }, (_, i) => rounded(2 ** ((i - 40) / 4)));
  const parts = [["rate", "rate, requests arriving", "per second", [...new Set(rates)]]];
  if (hasTokens()) parts.push(["seqs", "concurrency: sequences at a time", "at most", stopsUpTo(1024)], ["chunk", "tokens of a step", "tokens", stopsUpTo(32768).filter((x) => x >= 64)]);
  loadControls = parts.map(([name, label, unit, stops]) => control({
    id: `load-${name}`, label, unit, scale: 1, stops, allowed: LOADED[name],
    get: () => (name === "rate" ? shownRate : state.load[name]), set: (v) => { state.load[name] = v; },
  }));
  const policy = h("select", { id: "load-policy", onchange: (e) => { state.load.policy = e.target.value; update(); } });
  options(policy, Object.entries(POLICIES), state.load.policy);
  const half = h("button", { type: "button", id: "load-half", onclick: () => { state.load.rate = null; update(); } }, "Half of what it stands");
  loadControls[0].append(half);
  put($("load-controls"), loadControls, hasTokens() ? h("div", { class: "control" }, h("label", { for: "load-policy" }, "policy: what a step holds"), policy) : null);
}

let shownRate = null;
const perSecond = (x) => (Number.isFinite(x) ? `${digits(x)} /s` : "–");
const lower = (found, text) => `${found.low ? "~" : ""}${text}`;

let drawnLoad = {};
// Everything of the panel. Functions of steps come with a report, and later in an explorer.
function* drawLoad() {
  const one = variant(), shown = [...new Set([...compared(), state.pipeline])].sort((a, b) => a - b);
  for (const p of shown) if (variant(p).load === null) askLoad(variant(p));
  if (one.load === null) {
    $("load-about").textContent = "Deriving steps of a server …";
    warnLoad("");
    shownRate = state.load.rate;
    for (const node of loadControls) node.refresh();
    drawnLoad = {};
    return;
  }
  // A batch and the context of a step move nothing of a queue.
  const queued = Boolean(one.load.queue), { B, T, ...sizes } = state.values;
  const now = JSON.stringify([state.device, state.pipeline, shown, queued ? sizes : state.values, state.figures[state.device], state.load, shown.map((p) => Boolean(variant(p).load)), roomOf($("tpotload"))]);
  if (now === drawnLoad.key && one === drawnLoad.one) return;
  const servers = new Map();
  for (const p of shown) { servers.set(p, serverOf(variant(p), state.device)); yield; }
  shownRate = rateOf(queued ? [...servers.values()] : [batchesOf(one, state.device, null)]);
  for (const node of loadControls) node.refresh();
  for (const id of ["load-seqs", "load-chunk", "load-policy"]) if ($(id)) $(id).closest(".control").hidden = !queued || (id === "load-chunk" && state.load.policy !== "chunked");
  $("load-half").hidden = state.load.rate === null;
  const usual = state.load.rate === null ? " The rate is half of what the first pipeline stands, unless another is set." : "";
  drawSimulated();
  if (queued) yield* drawQueue(servers, servers.get(state.pipeline), usual);
  else drawBatches(shown, one, usual);
  drawnLoad = { key: now, one }; // not before: what is broken off is not drawn
}

const timesText = () => (calibrated() ? `Times are fitted (fidelity ${DATA.setting.fidelity}).` : "Times are the roofline's: a lower bound, so real servers stand less.");

function warnLoad(text) {
  if ($("load-said").textContent !== text) $("load-said").textContent = text;
  $("load-said").hidden = !text;
}

const asked = new WeakSet();
function askLoad(one) {
  if (asked.has(one) || !one.moreLoad) return;
  asked.add(one);
  one.moreLoad(() => { update(); });
}

const loadCard = (id, title, value, text, ...notes) => h("div", { class: "card" }, h("h3", {}, title), h("output", { "data-load": id, "data-value": value }, text), notes.filter(Boolean).map((n) => h("span", { class: "note" }, n)));

function* drawQueue(servers, q, usual) {
  const rate = shownRate ?? NaN, S = valueOf("S"), N = valueOf("N");
  $("load-about").textContent = `One server, requests that arrive independently at a rate, prompts of ${digits(S, 12)} and answers of ${digits(N, 12)} tokens each (S and N of the workload; of lengths that vary, the means). ${timesText()}${usual}`;
  const found = loadedAt(q, rate), over = !q.why && rate >= q.largest;
  warnLoad(q.why || (over ? `At ${digits(rate)} requests a second the queue grows without end: this pipeline stands ${digits(q.largest)}.` : ""));
  if (q.why) { put($("load-cards")); put($("load-why")); }
  else { drawLoadCards(q, rate, found); drawStability(q, found); }
  drawLoadTable(servers, rate);
  yield* drawLoadCharts(servers, rate);
  $("load-assumed").replaceChildren(...variant().load.queue.said.map((t) => h("li", {}, t)));
}

const roomText = (room) => (room === null ? "–" : room >= FORMS.MANY ? "any number" : digits(room, 12));

function drawLoadCards(q, rate, found) {
  const N = valueOf("N"), positions = digits(valueOf("S") + N, 12), none = [NaN, "–"];
  put($("load-cards"),
    loadCard("largest", "stable up to, λ*", q.largest, perSecond(q.largest), `${shown(q.largest * N, "token/s")} of answers`),
    loadCard("load", "load, λ/λ*", rate / q.largest, percent(rate / q.largest)),
    loadCard("ttft", "time to first token, mean", ...(found ? [found.ttft, lower(found, shown(found.ttft, "s"))] : none), found && found.place > found.ttft / 1000 ? `${shown(found.place, "s")} of it for a place` : ""),
    loadCard("tpot", "time per output token, mean", ...(found && q.further > 0 ? [found.tpot, shown(found.tpot, "s")] : none)),
    loadCard("latency", "latency of a request, mean", ...(found ? [found.latency, lower(found, shown(found.latency, "s"))] : none), found ? `${digits(found.there)} requests there` : ""),
    loadCard("decoding", "sequences that decode, mean", ...(found ? [found.decoding, digits(found.decoding)] : none), `of ${digits(q.limit, 12)} places${q.limit < state.load.seqs ? ", all that memory holds" : ""}`),
    loadCard("room", "memory holds sequences", q.room === null ? NaN : q.room, roomText(q.room), q.room === null ? "the device states no capacity" : `of ${positions} positions each`));
}

const MATH = "http://www.w3.org/1998/Math/MathML";
const mathml = (tag, ...children) => { const node = document.createElementNS(MATH, tag); node.append(...children); return node; };
const mrow = (...parts) => mathml("mrow", ...parts.flat().map((p) => (typeof p !== "string" ? p : /^[\d.]+$/.test(p) ? mathml("mn", p) : /^[A-Za-zλτ]+\*?$/.test(p) ? mathml("mi", p) : /^[-−+·=()/,]$/.test(p) ? mathml("mo", p) : mathml("mtext", p))));

// The limit of stability as a formula with its numbers, and what bounds it.
function drawStability(q, found) {
  const m = q.limit, gain = q.gain, single = q.rounds === 0;
  const star = () => mathml("msup", mathml("mi", "λ"), mathml("mo", "*"));
  const rounds = gain === 1 ? [digits(q.further, 12)] : [`${digits(q.further, 12)}/${digits(gain)}`];
  const first = gain === 1 ? mrow("(", "N", "−", "1", ")") : mathml("mfrac", mrow("N", "−", "1"), mathml("mi", "g"));
  const value = [mathml("mn", digits(q.largest)), mathml("mtext", "\u00a0per second")];
  const terms = single ? [] : [
    mathml("mfrac", mathml("mi", "c"), mrow(first, "·", "τ")), "=",
    mathml("mfrac", mathml("mn", digits(q.decoding)), mrow(rounds, "·", shown(q.tau, "s"))), "="];
  const formula = mathml("math", mrow(star(), "=", ...terms, ...value));
  formula.setAttribute("display", "block");
  const bound = boundOfStep(m, Math.round(q.context));
  const places = `its ${digits(m, 12)} places${q.room !== null && q.limit === q.room ? ", all that memory holds," : ""} bound the rate${q.room !== null && q.limit < q.room ? `, and memory holds ${roomText(q.room)}` : ""}`;
  const what = q.byPrompts ? "prompts bound the rate: steps have no room for more of them" : places;
  const legend = single ? "Answers of one token: requests are prompts." : `c: the sequences of m = ${digits(m, 12)} places that decode where all are taken, the others being read; τ: a step there with the prompts in it, on average, at context ${digits(q.context)}${gain === 1 ? "" : `, a round of g = ${digits(gain)} tokens`}.`;
  put($("load-why"), h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Limit of stability" }, formula),
    h("p", { class: "note" }, legend),
    h("p", {}, `What bounds: ${what}${bound ? `; its decode steps are ${percent(bound.share)} bound by ${bound.by}` : ""}.`),
    found && found.low ? h("p", { class: "note" }, `~ above ${`${100 * FORMS.HONEST} %`} of λ* waits for the first token are mostly lower estimates: costgraph serve-simulate has them.`) : null);
}

// What bounds most of a decode step of m sequences.
function boundOfStep(m, T) {
  const steps = phases().filter((p) => p.context !== null && p.tokens !== 0);
  if (steps.length !== 1) return null;
  const { bound, most, total } = summed(step(steps[0], { B: m, T }).rows);
  return total > 0 ? { by: bound, share: most / total } : null;
}

function drawLoadTable(servers, rate) {
  $("load-table-title").textContent = Number.isFinite(rate) ? `Pipelines at ${digits(rate)} requests a second` : "Pipelines";
  const heads = ["pipeline", "λ*, per second", "load", "TTFT", "TPOT", "latency", "decoding", "room", "token/s and device"].map((t) => over(t));
  const cell = (field, value, text) => h("td", { class: "number", "data-load": field, "data-value": value }, text);
  const rows = [...servers].map(([p, q]) => {
    const one = variant(p), name = h("th", { scope: "row" }, `${letter(p)}: `, breakable(DATA.pipelines[p]));
    if (one.load === null) return h("tr", {}, name, h("td", { colspan: 8, class: "note" }, "deriving …"));
    if (q.why) return h("tr", { class: "failed" }, name, h("td", { colspan: 8, class: "warning" }, q.why));
    const found = loadedAt(q, rate), at = (field, text) => (found ? cell(field, found[field], text(found)) : cell(field, NaN, "–"));
    const room = cell("room", q.room === null ? NaN : q.room, roomText(q.room));
    const each = Math.min(rate, q.largest) * valueOf("N") / one.devices;
    return h("tr", { class: p === state.pipeline ? "chosen" : "" }, name, cell("largest", q.largest, digits(q.largest)),
      h("td", { class: "number", "data-load": "load", "data-value": rate / q.largest }, percent(rate / q.largest), !(rate >= q.largest) ? null : h("span", { class: "warning" }, "⚠ too much")),
      at("ttft", (x) => lower(x, shown(x.ttft, "s"))), at("tpot", (x) => shown(x.tpot, "s")), at("latency", (x) => lower(x, shown(x.latency, "s"))), at("decoding", (x) => digits(x.decoding)), room,
      cell("tokens", each, digits(each)));
  });
  keepFocus(() => tabled($("loadtable"), heads, rows));
}

// Time per token and time to the first one over the rate, up to what each pipeline stands.
function* drawLoadCharts(servers, rate) {
  const lines = [];
  for (const [p, q] of servers) {
    if (q.why || !Number.isFinite(q.largest)) continue;
    const points = [];
    for (const x of LOADS) { points.push({ rate: x * q.largest, ...loadedAt(q, x * q.largest) }); yield; }
    lines.push({ p, q, points });
  }
  for (const metric of ["tpot", "ttft"]) drawLoadChart(metric, lines, rate);
}

function drawLoadChart(metric, lines, rate) {
  const all = lines.flatMap((l) => l.points.map((x) => x[metric]).filter((v) => v > 0)), place = $(`${metric}load`);
  if (!all.length) { place.replaceChildren(); return; }
  const wide = roomOf(place), tall = heightFor(wide, 336), most = Math.max(...lines.map((l) => l.q.largest));
  const { box, y } = boxOf(wide, tall, (bottom, top) => axis(Math.min(...all) / 1.2, Math.max(...all) * 1.2, bottom, top, true), "s", 36);
  const x = axis(0, most, box.left, box.right, false);
  const { parts, below } = frame(x, y, box, "requests per second", `mean ${TITLES[metric]}`, "", "s");
  let last = -Infinity;
  const path = (some) => some.map((v) => `${x.place(v.rate).toFixed(1)},${y.place(v[metric]).toFixed(1)}`).join(" ");
  const end = (l) => y.place(l.points.at(-1)[metric]);
  for (const l of [...lines].sort((a, b) => end(a) - end(b))) {
    const split = metric === "ttft" ? l.points.findIndex((v) => v.low) : -1, sure = split < 0 ? l.points : l.points.slice(0, split + 1);
    parts.push(s("polyline", { class: `curve s${l.p % HUES}`, points: path(sure) }));
    if (split >= 0) parts.push(s("polyline", { class: `curve low s${l.p % HUES}`, points: path(l.points.slice(split)) }));
    const at = Math.max(end(l) + 4, last + 14);
    last = at;
    parts.push(s("text", { class: "label", x: x.place(l.points.at(-1).rate) + 5, y: at }, letter(l.p)));
  }
  if (rate > 0 && rate <= most) parts.push(s("line", { class: "now", x1: x.place(rate), x2: x.place(rate), y1: box.top, y2: box.bottom }));
  const text = lines.map((l) => `${letter(l.p)}: from ${shown(l.points[0][metric], "s")} to ${shown(l.points.at(-1)[metric], "s")} at ${digits(l.points.at(-1).rate)} a second`).join("; ");
  place.replaceChildren(chart(wide, tall + below, { role: "img", "aria-label": `mean ${TITLES[metric]} over the rate. ${text}` }, ...parts),
    h("p", { class: "note" }, `${lines.map((l) => `${letter(l.p)}: ${DATA.pipelines[l.p]}`).join("; ")}${metric === "ttft" ? `. Pale: above ${`${100 * FORMS.HONEST} %`} of what it stands, mostly lower estimates` : ""}. Dotted: the rate that is set.`));
}

// What was simulated when the report was made: it does not follow the controls, and says so.
function drawSimulated() {
  const seen = variant().simulated;
  if (!seen) { put($("simulated")); return; }
  const title = h("h3", { id: "simulated-title" }, "Simulated when this report was made");
  if (seen.why) { put($("simulated"), title, h("p", { class: "warning" }, seen.why)); return; }
  const heads = ["time", "mean", ...seen.quantiles.map((p) => `${p} %`)].map((t) => over(t)), table = h("table", { id: "simulatedtable" });
  const line = (name, what, mark, values) => h("tr", {}, h("th", { scope: "row" }, `${HEADS[name] || name}${what}`), values.map((v, i) => h("td", { class: "number", [mark]: `${name} ${i}`, "data-value": v === null ? "" : v }, v === null ? "–" : shown(v, "s"))));
  const low = (name) => (seen.low && name !== "tpot" ? "~ " : "");
  const rows = Object.entries(seen.rows).flatMap(([name, values]) => [
    line(name, ", simulated", "data-simulated", values),
    ...(seen.closed ? [line(name, `, ${low(name)}closed form`, "data-closed", seen.closed[name])] : []),
  ]);
  const policy = `${seen.policy}${seen.policy === "chunked" ? ` ${digits(seen.chunk, 12)}` : ""}`;
  tabled(table, heads, rows);
  put($("simulated"), title,
    h("p", { class: "note" }, `Event by event: ${digits(seen.requests, 12)} requests at ${digits(seen.rate)} a second, prompts of ${digits(seen.S, 12)} and answers of ${digits(seen.N, 12)} tokens, ${policy}, at most ${digits(seen.seqs, 12)} sequences, figures as stated, fidelity ${seen.fidelity}, seed ${digits(seen.seed)}; the server is busy ${percent(seen.busy)} of the time; the first fifth does not count in times. These numbers do not follow the controls.${seen.closed ? " Quantiles of the closed form stand where it is honest." : " There is no closed form: more requests come than are served."}${seen.low ? ` ~ above ${`${100 * FORMS.HONEST} %`} of what the server stands: mostly lower estimates.` : ""}`),
    seen.unsteady ? h("p", { class: "warning" }, seen.unsteady) : null,
    seen.errors ? h("p", { class: "note" }, `${seen.errors[0].toUpperCase()}${seen.errors.slice(1)}.`) : null,
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-labelledby": "simulated-title" }, table),
    seen.picture === null ? h("p", { class: "note" }, seen.unpictured) : h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "timeline" }, text(seen.picture)()),
    h("details", {}, h("summary", {}, "What the simulation rests on"), h("ul", { class: "note" }, seen.said.map((t) => h("li", {}, t)))));
}

// Without steps of mixed work: one request, or one batch, after another.
function drawBatches(pipelines, one, usual) {
  const tokens = hasTokens(), found = batchesOf(one, state.device, shownRate), { B } = found, { why } = one.load;
  const what = tokens ? "request" : "run", many = B === 1 ? `one ${what} at a time` : `${digits(B, 12)} at a time (B of the workload)`;
  $("load-about").textContent = `${tokens ? `No closed form of a server that mixes requests: ${why}. ` : "This model generates no tokens. "}Shown is a server that takes ${many}, each to its end. ${timesText()}${usual}`;
  warnLoad(found.load >= 1 ? `At ${digits(shownRate)} a second the queue grows without end: it stands ${digits(found.largest)}.` : "");
  put($("load-cards"),
    loadCard("largest", "stable up to, λ*", found.largest, perSecond(found.largest)),
    loadCard("load", "load, λ/λ*", found.load, percent(found.load)),
    loadCard("seconds", `time of one ${B === 1 ? what : "batch"}`, found.seconds, shown(found.seconds, "s")),
    loadCard("wait", "wait in the queue, mean", found.wait, shown(found.wait, "s"), B === 1 ? "" : "depends on how a batch is filled"),
    loadCard("latency", "from arrival to the end, mean", found.wait + found.seconds, shown(found.wait + found.seconds, "s")));
  put($("load-why"), h("p", { class: "note" }, `λ* = B / latency(B) = ${digits(B, 12)} / ${shown(found.seconds, "s")}; the wait of single ones is that of an M/D/1 queue, λ/λ* · latency / (2 · (1 − λ/λ*)).`));
  $("load-table-title").textContent = `Pipelines at ${digits(shownRate)} a second`;
  const heads = ["pipeline", "λ*, per second", "load", "time of one", "wait"].map((t) => over(t));
  keepFocus(() => tabled($("loadtable"), heads, pipelines.map((p) => {
    const x = batchesOf(variant(p), state.device, shownRate), cell = (field, value, text) => h("td", { class: "number", "data-load": field, "data-value": value }, text);
    return h("tr", { class: p === state.pipeline ? "chosen" : "" }, h("th", { scope: "row" }, `${letter(p)}: `, breakable(DATA.pipelines[p])),
      cell("largest", x.largest, digits(x.largest)), cell("load", x.load, percent(x.load)), cell("seconds", x.seconds, shown(x.seconds, "s")), cell("wait", x.wait, shown(x.wait, "s")));
  })));
  for (const metric of ["tpot", "ttft"]) $(`${metric}load`).replaceChildren();
  $("load-assumed").replaceChildren(h("li", {}, "requests arrive independently (Poisson), every one alike; nothing else runs on the device"));
}
