// A metric over one symbol for the compared pipelines, and where they cross or change their bound.
const SAMPLES = 120;

function sampled(name, log) {
  const figure = DATA.devices[state.device].figures[name];
  const described = DATA.controls.find((c) => c.name === name);
  let low = 1, high = described ? described.largest : 1, whole = false;
  if (figure !== undefined) { low = figure / 10; high = figure * 10; }
  else if (described.kind === "size") whole = true;
  else if (described.kind === "probability") { low = 0.01; high = 0.99; }
  else { low = 0.1; }
  const points = [];
  for (let i = 0; i <= SAMPLES; i++) {
    let v = log ? low * (high / low) ** (i / SAMPLES) : low + ((high - low) * i) / SAMPLES;
    if (whole) v = Math.round(v);
    if (v !== points[points.length - 1]) points.push(v);
  }
  return { points, whole };
}

// The first place after a where f differs from f(a), by bisection between a and b.
function change(f, a, b, whole) {
  const before = f(a);
  for (let i = 0; i < 60 && (whole ? b - a > 1 : b - a > 1e-9 * b); i++) {
    const m = whole ? Math.floor((a + b) / 2) : (a + b) / 2;
    if (f(m) === before) a = m; else b = m;
  }
  return b;
}

function* crossings(lines, name, metric, xs, whole) {
  const found = [];
  for (let i = 0; i < lines.length; i++) {
    for (let j = i + 1; j < lines.length; j++) {
      const sign = (v) => {
        const a = evaluate(lines[i].one, { [name]: v }).metrics[metric], b = evaluate(lines[j].one, { [name]: v }).metrics[metric];
        return Math.abs(a - b) <= 1e-12 * Math.abs(a) ? 0 : Math.sign(a - b);
      };
      const signs = xs.map((v, k) => {
        const a = lines[i].ys[k], b = lines[j].ys[k];
        return Math.abs(a - b) <= 1e-12 * Math.abs(a) ? 0 : Math.sign(a - b);
      });
      for (let k = 1; k < xs.length; k++) {
        yield;
        if (signs[k] === signs[k - 1] || Number.isNaN(signs[k]) || Number.isNaN(signs[k - 1])) continue;
        const at = change(sign, xs[k - 1], xs[k], whole), lower = sign(at) < 0 ? i : j;
        const text = sign(at) === 0 ? `pipelines ${letter(lines[i].p)} and ${letter(lines[j].p)} become equal` : `pipeline ${letter(lines[lower].p)} falls below ${letter(lines[lower === i ? j : i].p)}`;
        found.push({ at, text });
      }
    }
  }
  return found.sort((a, b) => a.at - b.at).slice(0, 24);
}

function* boundChanges(metric, name, xs, whole) {
  const wanted = metric === "ttft" ? (p) => p.context === null : metric === "tpot" ? (p) => p.context !== null : null;
  if (!wanted) return [];
  const found = new Map();
  const several = variant().phases.filter(wanted).slice(0, 3);
  for (const p of several) {
    if (p.rows.length > 400) continue;
    const bounds = (v) => step(p, { [name]: v }).rows.map((r) => r.bound);
    let before = bounds(xs[0]);
    for (let k = 1; k < xs.length; k++) {
      yield;
      const now = bounds(xs[k]);
      now.forEach((bound, i) => {
        if (bound === before[i]) return;
        const at = change((v) => bounds(v)[i], xs[k - 1], xs[k], whole);
        const id = `${at.toPrecision(6)} ${before[i]} ${bound}`;
        if (!found.has(id)) found.set(id, { at, from: before[i], to: bound, ops: [] });
        found.get(id).ops.push((several.length > 1 ? `${p.name}.` : "") + p.rows[i][0][0]);
      });
      before = now;
    }
  }
  return [...found.values()].sort((a, b) => a.at - b.at).slice(0, 24);
}

function symbolText(name, value) {
  return DATA.devices[state.device].figures[name] !== undefined ? figureText(name, value) : digits(value, 6);
}

function* drawCurve() {
  const { metric, symbol: name, log } = state.curve;
  const unit = unitOf(metric);
  const { points: xs, whole } = sampled(name, log);
  const lines = [];
  for (const p of compared()) {
    const one = variant(p), ys = [];
    for (const v of xs) { ys.push(evaluate(one, { [name]: v }).metrics[metric]); yield; }
    if (ys.every(Number.isFinite)) lines.push({ p, one, ys });
  }
  if (!lines.length) { $("curve").replaceChildren(h("p", {}, "No chosen pipeline has this metric.")); $("crossovers").replaceChildren(); return; }
  const all = lines.flatMap((line) => line.ys);
  const least = Math.min(...all), most = Math.max(...all);
  const flat = most <= least * (1 + 1e-12);
  const wide = roomOf($("curve")), tall = heightFor(wide, 402);
  const { box, y } = boxOf(wide, tall, (bottom, top) => axis(log ? least / (flat ? 2 : 1.2) : 0, most * (flat ? 2 : 1.2), bottom, top, log), unit, 36);
  const x = axis(xs[0], xs[xs.length - 1], box.left, box.right, log);
  const figure = DATA.devices[state.device].figures[name] !== undefined;
  const { parts, below } = frame(x, y, box, `${name}${figure ? "" : `: ${(DATA.controls.find((c) => c.name === name) || {}).meaning || ""}`}`, TITLES[metric] || metric, figure ? (name === "BW" ? "B/s" : "FLOP/s") : "", unit);
  const found = yield* crossings(lines, name, metric, xs, whole);
  for (const { at } of found) parts.push(s("line", { class: "crossing", x1: x.place(at), x2: x.place(at), y1: box.top, y2: box.bottom }));
  let last = -Infinity;
  const end = (line) => y.place(line.ys[line.ys.length - 1]);
  [...lines].sort((a, b) => end(a) - end(b)).forEach((line) => {
    const path = xs.map((v, k) => `${x.place(v).toFixed(1)},${y.place(line.ys[k]).toFixed(1)}`).join(" ");
    parts.push(s("polyline", { class: `curve s${line.p % HUES}`, points: path }));
    const at = Math.max(end(line) + 4, last + 14); // letters in the lines' order, none on another
    last = at;
    parts.push(s("text", { class: "label", x: box.right + 8, y: at }, letter(line.p)));
  });
  const now = valueOf(name);
  if (now >= xs[0] && now <= xs[xs.length - 1]) {
    parts.push(s("line", { class: "now", x1: x.place(now), x2: x.place(now), y1: box.top, y2: box.bottom }));
    parts.push(s("text", { class: "tick", ...(box.right - x.place(now) < 34 ? { x: x.place(now) - 5, "text-anchor": "end" } : { x: x.place(now) + 5 }), y: box.top + 10 }, "now"));
    for (const line of lines) {
      const v = evaluate(line.one).metrics[metric];
      parts.push(s("circle", { class: `dot c${line.p % HUES}`, cx: x.place(now), cy: y.place(v), r: 4.5 }, s("title", {}, `${letter(line.p)}: ${shown(v, unit)}`)));
    }
  }
  const changes = yield* boundChanges(metric, name, xs, whole);
  $("curve").replaceChildren(
    chart(wide, tall + below, { role: "img", "aria-label": `${TITLES[metric] || metric} over ${name} for ${lines.map((l) => letter(l.p)).join(", ")}` }, ...parts),
    h("ul", { class: "key" }, lines.map((line) => h("li", {}, s("svg", { class: "dash", viewBox: "0 0 34 10", "aria-hidden": "true" }, s("line", { class: `curve s${line.p % HUES}`, x1: 1, x2: 33, y1: 5, y2: 5 })), ` ${letter(line.p)}: ${DATA.pipelines[line.p]}`))));
  const list = (items) => h("ul", {}, items.map((t) => h("li", {}, t)));
  $("crossovers").replaceChildren(
    h("h3", {}, "Where pipelines cross"),
    found.length ? list(found.map((c) => `${name} ${whole ? "=" : "≈"} ${symbolText(name, c.at)}: ${c.text}`)) : h("p", {}, lines.length > 1 ? "They do not cross in this range." : "Choose more than one pipeline to compare."),
    ...(metric === "ttft" || metric === "tpot" ? [
      h("h3", {}, `What changes its bound in pipeline ${letter(state.pipeline)}`),
      changes.length ? list(changes.map((c) => `${name} ${whole ? "=" : "≈"} ${symbolText(name, c.at)}: ${c.ops.slice(0, 6).join(", ")}${c.ops.length > 6 ? ` and ${c.ops.length - 6} more` : ""} from ${c.from} to ${c.to}`)) : h("p", {}, "Nothing in this range."),
    ] : []),
    h("p", { class: "hint" }, `Found between ${xs.length} points, then by bisection${whole ? " to the first whole number" : ""}.`));
}
