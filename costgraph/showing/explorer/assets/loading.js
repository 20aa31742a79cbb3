// Parts: classic scripts that call costgraph.receive, from a server or from files beside the page.
const served = document.currentScript.dataset.served === "true";
const expected = new Map(); // key of a part that is on its way → what takes it
const parts = new Map(); // key → promise of a part

window.costgraph = Object.freeze({
  receive(key, value, functions) {
    const take = expected.get(key);
    if (take) take({ value, functions });
  },
});

function fetched(key, address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const done = () => { script.remove(); expected.delete(key); };
    expected.set(key, (found) => { done(); resolve(found); });
    script.onerror = () => { done(); reject(new Error(served ? "no answer: is costgraph explore still running?" : "this page holds no such file")); };
    script.onload = () => { if (expected.has(key)) { done(); reject(new Error("the answer was empty")); } };
    script.src = address;
    document.head.append(script);
  });
}

// A part by its key, from an address; asked for once, unless it failed on the way.
function once(key, address) {
  if (!parts.has(key)) parts.set(key, fetched(key, address).catch((error) => { parts.delete(key); throw error; }));
  return parts.get(key);
}

// Markup made by costgraph becomes nodes; the page's policy lets nothing in it run.
function textsOf(all) {
  return (index) => () => {
    const template = document.createElement("template");
    template.innerHTML = all[index];
    return template.content;
  };
}

let CATALOG = null;
async function loadCatalog() {
  CATALOG = (await fetched("catalog", "catalog.js")).value;
}

// The bundle of one machine alone.
function rowOf({ bundle, texts, heads }, functions, row) {
  const alone = { ...bundle, ...(heads && heads[row]), devices: [bundle.devices[row]], variants: [bundle.variants[row]] };
  return adopted(alone, functions, textsOf(texts));
}

// Where variants come from: a server derives each part of each one.
const fromServer = {
  part(...texts) {
    const [kind, model, on, passes, fidelity, metric = ""] = texts;
    return once(JSON.stringify(texts), `part.js?${new URLSearchParams({ kind, model, on, passes, fidelity, metric })}`);
  },
  // Tells now and then how far a part is, until it is there.
  async followed(loaded, told, ...texts) {
    const [kind, model, on, passes, fidelity] = texts, address = `far?${new URLSearchParams({ kind, model, on, passes, fidelity })}`;
    const timer = setInterval(() => fetch(address).then((answer) => answer.json()).then(({ done, total }) => told(done, total)).catch(() => {}), 500);
    try { return await loaded; } finally { clearInterval(timer); }
  },
  async numbers(...variant) {
    const { value, functions } = await this.part("numbers", ...variant);
    return value.error ? { error: value.error } : rowOf(value, functions, 0);
  },
  async formula(metric, ...variant) {
    const { value } = await this.part("formulas", ...variant, metric);
    return value.error ? {} : printed(value.formulas, textsOf(value.texts))[metric];
  },
  async picture(index, ...variant) {
    const { value } = await this.part("pictures", ...variant);
    return value.error ? { every: null, folded: null } : value.pictures[index];
  },
  async load(...variant) {
    const { value, functions } = await this.part("load", ...variant);
    return value.error ? { queue: null, why: value.error } : loadable(value, functions);
  },
  async plans(told, ...variant) {
    const { value, functions } = await this.followed(this.part("plans", ...variant), told, "plans", ...variant);
    return value.error ? { plans: [], left: 0, why: value.error, figures: {} } : planned(value, functions);
  },
  async written(metric, ...variant) {
    const { value } = await this.part("written", ...variant);
    return { latex: value.latex && value.latex[metric], python: value.python && value.python[metric] };
  },
};

// Or files beside the page: one for each model and pipeline, and what they share.
const fromFiles = {
  pair(model, on, passes) {
    return once(JSON.stringify(["numbers", model, "", passes, "ideal"]), `parts/${model}-${CATALOG.pipelines.indexOf(passes)}.js`);
  },
  shared: (name) => once(name, `shared/${name}.js`).then(({ value }) => value),
  async later(model, on, passes) {
    const { value } = await this.pair(model, on, passes);
    return value.later[value.machines[on]];
  },
  async numbers(model, on, passes) {
    if (!CATALOG.models.some((m) => m.value === model)) return { error: `this page does not hold the model ${model}` };
    if (!CATALOG.pipelines.includes(passes)) return { error: "this page does not hold the pipeline: costgraph explore takes any" };
    const { value, functions } = await this.pair(model, on, passes), row = value.machines[on];
    if (row === undefined) return { error: `this page does not hold the machine ${on}` };
    return typeof row === "string" ? { error: row } : rowOf(value, functions, row);
  },
  async formula(metric, ...variant) {
    const name = (await this.later(...variant)).formulas[metric], found = name ? await this.shared(name) : {};
    return Object.fromEntries(Object.entries(found).map(([detail, html]) => [detail, textsOf([html])(0)]));
  },
  async load(model, on, passes) {
    const { value } = await this.pair(model, on, passes), name = `${model}-${CATALOG.pipelines.indexOf(passes)}`;
    const found = await once(JSON.stringify(["load", model, "", passes, "ideal"]), `parts/${name}-load.js`);
    return loadable(found.value[value.machines[on]], found.functions);
  },
  async plans(_, model, on, passes) {
    const { value } = await this.pair(model, on, passes), name = `${model}-${CATALOG.pipelines.indexOf(passes)}`;
    const found = await once(JSON.stringify(["plans", model, "", passes, "ideal"]), `parts/${name}-plans.js`);
    return planned(found.value[value.machines[on]], found.functions);
  },
  async picture(index, ...variant) { return this.shared((await this.later(...variant)).pictures[index]); },
  async written(metric, ...variant) {
    const name = (await this.later(...variant)).written[metric];
    return name ? this.shared(name) : {};
  },
};

const source = served ? fromServer : fromFiles;

// One variant ready to be shown: its bundle, with what is asked for later.
async function loadVariant(...variant) {
  const bundle = await source.numbers(...variant);
  if (bundle.error) return bundle;
  const [[one]] = bundle.variants, failed = (problem) => fail(problem.message);
  one.more = (metric, then) => source.formula(metric, ...variant).then((found) => { one.formulas = { ...one.formulas, [metric]: found }; then(); }, failed);
  one.moreLoad = (then) => source.load(...variant).then((found) => { one.load = found; then(); }, failed);
  if (served || CATALOG.plans) one.morePlans = (then, told) => source.plans(told, ...variant).then((found) => then(found), (problem) => { then(null); failed(problem); });
  one.written = (metric) => source.written(metric, ...variant);
  [...new Set(one.phases.map((p) => p.graph))].forEach((graph, index) => {
    graph.more = (then) => source.picture(index, ...variant).then(({ every, folded }) => {
      graph.svg = every === null ? null : textsOf([every])(0);
      graph.folded = folded && { ...folded, svg: textsOf([folded.svg])(0) };
      delete graph.more;
      then();
    }, failed);
  });
  return bundle;
}

// Variants of several bundles as one, as a report holds them.
function joinedBundle(machines, pipelines, bundles) {
  const all = bundles.flat(), good = all.filter((b) => !b.error), first = good[0];
  if (!first) return null;
  const known = new Map(good.flatMap((b) => b.controls.map((c) => [c.name, c])));
  const sizes = ["B", "S", "N", "T", "K"], place = (n) => (sizes.includes(n) ? sizes.indexOf(n) : sizes.length);
  const least = (name) => good.map((b) => b.controls.find((c) => c.name === name)).filter((c) => c && c.value !== null);
  const controls = [...known.values()].sort((a, b) => place(a.name) - place(b.name) || (a.name < b.name ? -1 : 1))
    .map((c) => ({ ...c, value: least(c.name).reduce((v, x) => (v === null || x.value < v ? x.value : v), null) }));
  const devices = machines.map((name, d) => {
    const mine = bundles[d].filter((b) => !b.error).map((b) => b.devices[0]);
    if (!mine.length) return { name, title: name, figures: {}, capacity: null, price: null };
    return { ...mine[0], name, figures: Object.assign({}, ...mine.map((x) => x.figures)) };
  });
  const union = (of) => [...new Set(good.flatMap(of))];
  return {
    load: first.load, setting: first.setting, remarks: union((b) => b.remarks), conventions: first.conventions, controls, devices,
    pipelines: pipelines.map((p) => p || "unmodified"),
    variants: bundles.map((row) => row.map((b) => (b.error ? b : b.variants[0][0]))),
  };
}
