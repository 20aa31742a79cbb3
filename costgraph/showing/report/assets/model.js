// What the page shows, its state, and the model at a point.
let DATA = null;
// What was set by hand (given, changed) outlives a change of model, devices or pipelines.
const state = {
  device: 0, pipeline: 0, left: new Set(), values: {}, figures: [], given: {}, changed: {},
  phase: "", metric: "tpot", detail: "summary", filter: "", sort: { key: "total", down: true },
  everything: false, level: "every", selected: null, curve: { metric: "tpot", symbol: "B", log: true }, stack: "latency", load: null, plans: false, plansBy: "latency",
};

// What a size or another symbol may be, and a figure of a device that states it: by a field, a
// slider or an address. Beyond, numbers and charts would mean nothing.
function allowedValue({ kind }) {
  if (kind === "size") return { whole: true, least: 1, most: 1e12 };
  return { whole: false, least: 1e-9, most: kind === "probability" ? 1 : 1e12 };
}
const allowedFigure = (stated) => ({ whole: false, least: stated / 1e6, most: stated * 1e6 });
const allows = ({ whole, least, most }, value) => value >= least && value <= most && (!whole || Number.isInteger(value));

const statedFigures = (device) => Object.entries({ ...device.figures, M: device.capacity }).filter(([, v]) => v !== null);
const allowedGiven = (control, given) => control && Object.hasOwn(given, control.name) && allows(allowedValue(control), given[control.name]);
const allowedChange = (device, name, value) => statedFigures(device).some(([n, stated]) => n === name && allows(allowedFigure(stated), value));

let givenLoad = {}; // of an address
// Takes what there is to show; what was set by hand stays, where it still means something.
function begin(data) {
  DATA = data;
  state.values = Object.fromEntries(data.controls.map((c) => [c.name, allowedGiven(c, state.given) ? state.given[c.name] : c.value]));
  state.figures = data.devices.map((d) => ({ ...d.figures, M: d.capacity,
    ...Object.fromEntries(Object.entries(state.changed[d.name] || {}).filter(([name, value]) => allowedChange(d, name, value))) }));
  state.load ||= { ...data.load, ...givenLoad };
  state.device = Math.min(state.device, data.devices.length - 1);
  state.pipeline = Math.min(state.pipeline, data.pipelines.length - 1);
  settle();
}

// A pipeline may not fit a device: then its variant is why, and another that fits is shown.
const works = (pipeline, device = state.device) => !DATA.variants[device][pipeline].error;
function settle() {
  if (works(state.pipeline)) return;
  const other = [...DATA.pipelines.keys()].find((p) => works(p));
  if (other !== undefined) state.pipeline = other;
}

const variant = (pipeline = state.pipeline) => DATA.variants[state.device][pipeline];
const compared = () => [...DATA.pipelines.keys()].filter((p) => works(p) && !state.left.has(DATA.pipelines[p]));

function valueOf(name, at, device = state.device) {
  if (at && name in at) return at[name];
  if (name in state.values) return state.values[name] === null ? NaN : state.values[name];
  const figure = state.figures[device][name];
  return figure === undefined ? NaN : figure;
}

function run(call, at, device) {
  return call === null ? [] : call.run(...call.args.map((name) => valueOf(name, at, device)));
}

// Whether bytes exceed the device's memory; of a device without a stated capacity nothing is known.
function tooLarge(bytes, device) {
  const capacity = valueOf("M", null, device);
  return Number.isFinite(capacity) && bytes > capacity;
}

// What is said where a request has more positions than the model's file states, or nothing.
function said(stated) {
  const over = stated.filter(([positions, most]) => positions > most).sort((a, b) => b[0] - a[0]);
  return over.length ? over[0][2] + digits(over[0][0], 12) + over[0][3] : "";
}

// Everything of one pipeline on a device: metrics by name, parts, memory, limits.
function evaluate(one, at, device = state.device) {
  const all = run(one.function, at, device);
  const metrics = {};
  one.metrics.forEach(([name], i) => { metrics[name] = all[i]; });
  // Written per token, a sum over an empty range of contexts is 0/0: then from the request's total.
  const tokens = valueOf("B", at) * valueOf("N", at), stated = DATA.devices[device].price;
  if (Number.isNaN(metrics.energy_per_token)) metrics.energy_per_token = metrics.energy / tokens;
  if (Number.isNaN(metrics.cost_per_token)) {
    metrics.cost_per_token = (metrics.latency * (stated === null ? valueOf("price", at) : stated)) / 3600 / tokens;
  }
  const first = one.metrics.length;
  return {
    metrics,
    parts: one.parts.map((name, i) => [name, all[first + i]]),
    memory: one.memory.map(([name, w, kv, whole]) => ({ name, weights: all[w], caches: all[kv], whole: all[whole] })),
    beyond: said(one.stated.map(([i, ...rest]) => [all[i], ...rest])),
    limits: one.limits.filter(([i, bound]) => all[i] > bound).map(([i, bound, what, why]) => ({ value: all[i], bound, what, why })),
  };
}

// The largest of the arms, or their norm, scaled by the largest so that powers never underflow.
function combined(norm, arms) {
  const top = Math.max(...arms);
  if (norm === null || arms.length === 1 || !(top > 0)) return top;
  return top * arms.reduce((sum, x) => sum + (x / top) ** norm, 0) ** (1 / norm);
}

const SIMPLE = ["memory", "latency", "none"];

// Seconds of one execution from terms of its own, and the resource of the largest arm.
function timed(terms, count, all) {
  let seconds = 0, most = 0, largest = "none";
  for (const [times, norm, arms] of terms) {
    const share = times === count ? 1 : all[count] ? all[times] / all[count] : 0;
    seconds += share * combined(norm, arms.map(([, i]) => all[i]));
    for (const [resource, i] of arms) {
      if (share * all[i] > most) { most = share * all[i]; largest = resource; }
    }
  }
  const cut = largest.lastIndexOf("/");
  const [kind, name] = largest.slice(cut + 1).split(":");
  const where = largest.slice(0, Math.max(cut, 0)).replace(/^@/, "");  // a level that computes, or one of several devices
  const of = where && ` of ${where}`;
  if (SIMPLE.includes(kind)) return { seconds, bound: kind, unit: where };
  return kind === "link" ? { seconds, bound: kind, unit: [name, where].filter(Boolean).join(" ") } : { seconds, bound: "compute", unit: `${kind} engine${of}` };
}

// Where the roofline bounds one execution.
function roofed(engines, moving) {
  let seconds = 0, bound = "none", unit = "";
  for (const [engine, time] of engines) {
    if (time > seconds) { seconds = time; bound = "compute"; unit = `${engine} engine`; }
  }
  return moving > seconds ? { seconds: moving, bound: "memory", unit: "" } : { seconds, bound, unit };
}

const calibrated = () => DATA.setting.fidelity !== "ideal";
const MARKS = { memory: "●", compute: "■", latency: "▲", link: "◆" };

// One step of a phase: a row per operation; times by the roofline, or by terms of its own. Where
// operations run at the same time, the step takes less than all of them in turn (busy).
function step(phase, at) {
  const all = run(phase.function, at);
  const bandwidth = valueOf("BW", at);
  let busy = 0;
  const rows = phase.rows.map(([node, cost], index) => {
    const [name, kind] = node, [count, work, moved, , , , terms] = phase.costs[cost];
    const engines = new Map();
    let flops = 0, bytes = 0;
    for (const [rate, i] of work) {
      flops += all[i];
      const engine = (rate.match(/^F_(vector|special)_/) || [, "tensor"])[1];
      engines.set(engine, (engines.get(engine) || 0) + all[i] / valueOf(rate, at));
    }
    for (const [, i] of moved) bytes += all[i];
    const { seconds, bound, unit } = terms ? timed(terms, count, all) : roofed(engines, bytes / bandwidth);
    const times = all[count];
    busy += times * seconds;
    return {
      index, name, kind, count: times, flops, bytes, seconds, bound, unit, node,
      total: times * seconds, intensity: bytes ? flops / bytes : NaN,
      roles: moved.map(([role, i]) => [role, all[i]]), work, formulas: phase.costs[cost].slice(3, 6),
    };
  });
  const total = phase.step === null ? busy : all[phase.step];
  for (const row of rows) row.share = total ? row.total / total : 0;
  const races = phase.races.map(([name, sides]) => ({ name, bodies: sides.map(([body, shared, i]) => ({ body, shared, seconds: all[i] })) }));
  return { rows, total, busy, races };
}

function phases() { return variant().phases; }
function phase() { return phases().find((p) => p.name === state.phase) || phases()[0]; }

// The pipelines' unit of a metric, from the first that has it.
function unitOf(metric) {
  for (const one of DATA.variants[state.device]) {
    const found = one.error ? null : one.metrics.find(([name]) => name === metric);
    if (found) return found[1];
  }
  return "";
}
