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

// A part of one variant; asked for once, unless it failed on the way.
function partOf(kind, model, on, passes, fidelity) {
  const texts = [kind, model, on, passes, fidelity], key = JSON.stringify(texts);
  if (!parts.has(key)) {
    const found = fetched(key, addressOf(texts)).catch((error) => { parts.delete(key); throw error; });
    parts.set(key, found);
  }
  return parts.get(key);
}

function addressOf([kind, model, on, passes, fidelity]) {
  if (served) return `part.js?${new URLSearchParams({ kind, model, on, passes, fidelity })}`;
  const place = (list, value) => CATALOG[list].findIndex((x) => (x.value ?? x) === value);
  return `parts/${place("models", model)}/${place("machines", on)}-${place("pipelines", passes)}-${kind}.js`;
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

// One variant (model, machine, pipeline) ready to be shown: its bundle, with what is asked for later.
async function loadVariant(model, on, passes, fidelity) {
  const { value, functions } = await partOf("numbers", model, on, passes, fidelity);
  if (value.error) return { error: value.error };
  const bundle = adopted(value.bundle, functions, textsOf(value.texts)), [[one]] = bundle.variants;
  const failed = (error) => { fail(error.message); };
  one.more = (then) => partOf("formulas", model, on, passes, fidelity).then(({ value: found }) => {
    one.formulas = found.error ? {} : printed(found.formulas, textsOf(found.texts));
    then();
  }, failed);
  one.written = () => partOf("written", model, on, passes, fidelity).then(({ value: found }) => found);
  bundle.graphs.forEach((graph, index) => {
    graph.more = (then) => partOf("pictures", model, on, passes, fidelity).then(({ value: found }) => {
      const text = found.error ? null : found.pictures[index];
      graph.svg = text === null ? null : textsOf([text])(0);
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
    setting: first.setting, remarks: union((b) => b.remarks), conventions: first.conventions, controls, devices,
    pipelines: pipelines.map((p) => p || "unmodified"),
    variants: bundles.map((row) => row.map((b) => (b.error ? b : b.variants[0][0]))),
  };
}
