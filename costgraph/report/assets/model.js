// The state of the page, and the model at a point.
const state = {
  device: 0, pipeline: 0, compared: new Set(DATA.pipelines.keys()),
  values: Object.fromEntries(DATA.controls.map((c) => [c.name, c.value])),
  figures: DATA.devices.map((d) => ({ ...d.figures, M: d.capacity })),
  phase: "", metric: "tpot", detail: "summary", filter: "", sort: { key: "total", down: true },
  everything: false, selected: null, curve: { metric: "tpot", symbol: "B", log: true }, stack: "latency",
};

const variant = (pipeline = state.pipeline) => DATA.variants[state.device][pipeline];
const compared = () => [...state.compared].sort((a, b) => a - b);

function valueOf(name, at) {
  if (at && name in at) return at[name];
  if (name in state.values) return state.values[name] === null ? NaN : state.values[name];
  const figure = state.figures[state.device][name];
  return figure === undefined ? NaN : figure;
}

function run(call, at) {
  return call === null ? [] : FUNCTIONS[call.code](...call.args.map((name) => valueOf(name, at)));
}

// Everything of one pipeline on the chosen device: metrics by name, parts, memory, limits.
function evaluate(one, at) {
  const all = run(one.function, at);
  const metrics = {};
  one.metrics.forEach(([name], i) => { metrics[name] = all[i]; });
  // Written per token, a sum over an empty range of contexts is 0/0: then from the request's total.
  const tokens = valueOf("B", at) * valueOf("N", at), stated = DATA.devices[state.device].price;
  if (Number.isNaN(metrics.energy_per_token)) metrics.energy_per_token = metrics.energy / tokens;
  if (Number.isNaN(metrics.cost_per_token)) {
    metrics.cost_per_token = (metrics.latency * (stated === null ? valueOf("price", at) : stated)) / 3600 / tokens;
  }
  const first = one.metrics.length;
  return {
    metrics,
    parts: one.parts.map((name, i) => [name, all[first + i]]),
    memory: one.memory.map(([name, w, kv, whole]) => ({ name, weights: all[w], caches: all[kv], whole: all[whole] })),
    limits: one.limits.filter(([i, bound]) => all[i] > bound).map(([i, bound, what, why]) => ({ value: all[i], bound, what, why })),
  };
}

// One step of a phase: a row per operation; times by the roofline.
function step(phase, at) {
  const all = run(phase.function, at);
  const bandwidth = valueOf("BW", at);
  let total = 0;
  const rows = phase.rows.map(([node, cost], index) => {
    const [name, kind] = DATA.nodes[node], [count, work, moved] = phase.costs[cost];
    const engines = new Map();
    let flops = 0, bytes = 0;
    for (const [rate, i] of work) {
      flops += all[i];
      const engine = (rate.match(/^F_(vector|special)_/) || [, "tensor"])[1];
      engines.set(engine, (engines.get(engine) || 0) + all[i] / valueOf(rate, at));
    }
    for (const [, i] of moved) bytes += all[i];
    let seconds = 0, bound = "none", unit = "";
    for (const [engine, time] of engines) {
      if (time > seconds) { seconds = time; bound = "compute"; unit = engine; }
    }
    if (bytes / bandwidth > seconds) { seconds = bytes / bandwidth; bound = "memory"; unit = ""; }
    const times = all[count];
    total += times * seconds;
    return {
      index, name, kind, count: times, flops, bytes, seconds, bound, unit, node,
      total: times * seconds, intensity: bytes ? flops / bytes : NaN,
      roles: moved.map(([role, i]) => [role, all[i]]), work, formulas: phase.costs[cost].slice(3),
    };
  });
  for (const row of rows) row.share = total ? row.total / total : 0;
  return { rows, total };
}

function phases() { return variant().phases; }
function phase() { return phases().find((p) => p.name === state.phase) || phases()[0]; }

// The pipelines' unit of a metric, from the first that has it.
function unitOf(metric) {
  for (const one of DATA.variants[state.device]) {
    const found = one.metrics.find(([name]) => name === metric);
    if (found) return found[1];
  }
  return "";
}
