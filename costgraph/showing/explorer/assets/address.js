// The state of the page lives in the part of its address behind #, so that it can be kept and sent.
function read(text) {
  const given = new URLSearchParams(text.replace(/^#/, "")), all = (name) => given.getAll(name).map((t) => t.slice(0, 16000));
  const ons = [...new Set(all("on").filter(Boolean))], passes = [...new Set(all("passes"))];
  const found = { model: all("model")[0] || "", on: ons.slice(0, MOST), passes: passes.slice(0, MOST) };
  found.unused = [...ons.slice(MOST).map((t) => `on=${t}`), ...passes.slice(MOST).map((t) => `passes=${t}`)];
  found.fidelity = all("fidelity")[0] || "ideal";
  // Names come from outside: no prototype that one could mean.
  found.values = Object.create(null);
  found.figures = Object.create(null);
  for (const [name, value] of given) {
    const number = Number(value), [kind, ...rest] = name.split(".");
    if (!KEYS.includes(name) && !(["set", "figure"].includes(kind) && number > 0 && Number.isFinite(number))) { found.unused.push(`${name}=${value}`); continue; }
    if (kind === "set") found.values[rest.join(".")] = number;
    // figure.MACHINE.NAME: names of machines may hold dots, names of figures none
    else if (kind === "figure" && rest.length > 1) (found.figures[rest.slice(0, -1).join(".")] ||= Object.create(null))[rest[rest.length - 1]] = number;
  }
  found.shown = Object.fromEntries(VIEWS.map((name) => [name, given.get(name)]));
  return found;
}

// The load that an address gives; what it cannot mean is said.
function readLoad({ shown, unused }) {
  const found = {};
  for (const name of ["rate", "seqs", "chunk", "policy"]) {
    const text = shown[name], known = name === "policy" ? Object.hasOwn(POLICIES, text) : text !== null && allows(LOADED[name], Number(text));
    if (known) found[name] = name === "policy" ? text : Number(text);
    else if (text !== null) unused.push(`${name}=${text}`);
  }
  return found;
}

// What was given by an address and means nothing for what it shows.
function unusedOf(found) {
  const controls = new Map(DATA.controls.map((c) => [c.name, c])), devices = new Map(DATA.devices.map((d) => [d.name, d]));
  const values = Object.entries(found.values).filter(([name]) => !allowedGiven(controls.get(name), found.values)).map(([name, value]) => `set.${name}=${value}`);
  const figures = Object.entries(found.figures).flatMap(([machine, given]) => Object.entries(given)
    .filter(([name, value]) => !(devices.has(machine) && allowedChange(devices.get(machine), name, value))).map(([name, value]) => `figure.${machine}.${name}=${value}`));
  return [...found.unused, ...values, ...figures];
}

const MOST = 8;
const VIEWS = ["machine", "pipeline", "phase", "metric", "curve", "over", "stack", "rate", "seqs", "chunk", "policy", "plans", "by"];
const KEYS = ["model", "on", "passes", "fidelity", ...VIEWS];

function written() {
  const text = new URLSearchParams();
  text.append("model", chosen.model);
  for (const on of chosen.on) text.append("on", on);
  for (const passes of chosen.passes) text.append("passes", passes);
  if (chosen.fidelity !== "ideal") text.append("fidelity", chosen.fidelity);
  for (const [name, value] of Object.entries(state.given)) text.append(`set.${name}`, value);
  for (const [machine, figures] of Object.entries(state.changed)) {
    for (const [name, value] of Object.entries(figures)) text.append(`figure.${machine}.${name}`, value);
  }
  if (DATA) {
    const view = { machine: state.device || "", pipeline: state.pipeline || "", phase: state.phase, metric: state.metric === "tpot" ? "" : state.metric,
      curve: state.curve.metric === "tpot" ? "" : state.curve.metric, over: state.curve.symbol === "B" ? "" : state.curve.symbol, stack: state.stack === "latency" ? "" : state.stack, plans: state.plans ? "1" : "", by: state.plansBy === "latency" ? "" : state.plansBy,
      ...Object.fromEntries(Object.entries(state.load || {}).map(([name, value]) => [name, value === DATA.load[name] ? "" : value])) };
    for (const [name, value] of Object.entries(view)) if (value !== "") text.append(name, value);
  }
  return `#${text}`;
}

let later = 0, last = "";
// What was chosen is a step of the browser's history; a slider's move only changes the address.
function keep(step = false) {
  clearTimeout(later);
  const now = () => {
    const text = written();
    if (text === last) return;
    history[step ? "pushState" : "replaceState"](null, "", text);
    last = text;
  };
  if (step) now(); else later = setTimeout(now, 250);
}
