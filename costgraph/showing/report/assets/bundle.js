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
    ...v, function: call(v.function), phases: v.phases.map(phase), formulas: v.formulas && printed(v.formulas, text),
  });
  return { ...bundle, graphs, variants: bundle.variants.map((row) => row.map(one)) };
}

// Printed formulas by metric and detail, as texts.
const printed = (formulas, text) => Object.fromEntries(Object.entries(formulas).map(([metric, details]) =>
  [metric, Object.fromEntries(Object.entries(details).map(([detail, index]) => [detail, text(index)]))]));
