// A bundle holds variants (device × pipeline) that share graphs, functions and texts. Adopted, its
// indices are what they stand for, so that variants of several bundles stand side by side.
function adopted(bundle, functions, text) {
  const call = (f) => (f === null ? null : { run: functions[f.code], args: f.args });
  const graphs = bundle.graphs.map((g) => ({ ...g, svg: g.svg === null ? null : text(g.svg) }));
  const costs = (all) => all.map(([count, work, moved, a, b, c, terms]) => [count, work, moved, text(a), text(b), text(c), terms]);
  const phase = (p) => ({
    ...p, function: call(p.function), graph: graphs[p.graph], costs: costs(p.costs),
    rows: p.rows.map(([node, cost]) => [bundle.nodes[node], cost]),
  });
  const one = (v) => ({
    ...v, function: call(v.function), phases: v.phases.map(phase), formulas: v.formulas && printed(v.formulas, text), load: v.load && loadable(v.load, functions), plans: v.plans && planned(v.plans, functions),
  });
  return { ...bundle, graphs, variants: bundle.variants.map((row) => row.map(one)) };
}

// Printed formulas by metric and detail, as texts.
const printed = (formulas, text) => Object.fromEntries(Object.entries(formulas).map(([metric, details]) =>
  [metric, Object.fromEntries(Object.entries(details).map(([detail, index]) => [detail, text(index)]))]));

// A server under load: its functions as what they stand for.
function loadable(load, functions) {
  const call = (f) => ({ run: functions[f.code], args: f.args }), q = load.queue;
  return q === null ? load : { ...load, queue: { ...q, decode: call(q.decode), prompt: call(q.prompt), joint: call(q.joint), values: call(q.values) } };
}

// Plans of a system: each with its own function.
const planned = (found, functions) => ({ ...found, plans: found.plans.map((p) => (p.error ? p : { ...p, function: { run: functions[p.function.code], args: p.function.args } })) });
