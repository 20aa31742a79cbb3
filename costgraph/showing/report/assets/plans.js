// Every way to share the chosen pipeline among the devices of a system: a row each, the best first.
const PLANNED = ["ttft", "tpot", "latency", "throughput", "memory", "cost_per_token"];
const plansShown = () => variant().plans && !variant().plans.waiting;

function drawPlans() {
  const one = variant(), device = DATA.devices[state.device];
  $("plans-part").hidden = !(one.plans || one.morePlans) || !(one.system > 1);
  if ($("plans-part").hidden) return;
  if (state.plans) askPlans();
  const known = one.plans;
  $("plans-get").hidden = Boolean(known);
  $("plans-by").closest("label").hidden = !plansShown() || known.plans.length === 0;
  drawFar(one);
  if (!plansShown()) {
    $("plans-said").textContent = known ? `Compiling every way to share ${device.name} …` : "";
    put($("plans"));
    return;
  }
  const names = PLANNED.filter((n) => unitOf(n)), by = names.includes(state.plansBy) ? state.plansBy : "latency";
  options($("plans-by"), names.map((n) => [n, TITLES[n]]), by);
  const up = by === "throughput" ? -1 : 1;
  // Figures that no pipeline of the page uses are as the device states them.
  const stated = Object.fromEntries(Object.entries(known.figures).filter(([n]) => !(n in state.figures[state.device])));
  const rows = known.plans.map((plan) => {
    if (plan.error) return { plan, why: plan.error };
    const found = evaluate(plan, stated), [x] = found.limits;
    if (x) return { plan, found, why: `${x.why}: ${x.what} = ${digits(x.value, 12)} exceeds ${digits(x.bound, 12)}` };
    return { plan, found, full: tooLarge(found.metrics.memory) };
  });
  const rank = (r) => (r.why ? 2 : r.full ? 1 : 0);
  rows.sort((a, b) => rank(a) - rank(b) || (rank(a) === 2 ? 0 : up * (a.found.metrics[by] - b.found.metrics[by])));
  const good = rows.filter((r) => rank(r) === 0).length;
  const left = known.left ? ` ${known.left} more were not compiled: costgraph search --degrees has them.` : "";
  $("plans-said").textContent = known.why || `${good} of ${rows.length} ways fit at these sizes.${left}`;
  const columns = names.length + (usePlan ? 2 : 1);
  const unit = (n) => (n === "memory" ? "byte" : unitOf(n));
  const heads = ["shared by", ...names.map((n) => HEADS[n] || n), ...(usePlan ? ["compare"] : [])].map((t) => over(t));
  const body = rows.map(({ plan, found, why, full }, i) => {
    const name = h("th", { scope: "row", title: plan.passes }, plan.shared), add = usePlan ? h("td", {}, h("button", { type: "button", id: `plan-${i}`, "aria-label": `compare ${plan.shared}`, disabled: DATA.pipelines.includes(plan.passes), onclick: () => usePlan(plan.passes) }, "+")) : null;
    if (why) return h("tr", { class: "failed" }, name, h("td", { colspan: columns - 1, class: "warning" }, why));
    return h("tr", { class: i === 0 && !full ? "chosen" : "", "data-plan": plan.shared }, name,
      names.map((n) => h("td", { class: "number", "data-metric": n, "data-value": found.metrics[n] }, shown(found.metrics[n], unit(n)), n === "memory" && full ? h("span", { class: "warning" }, "⚠ too large") : null)), add);
  });
  keepFocus(() => tabled($("plans"), heads, body));
}

// An explorer compiles plans when they are asked for, and puts one beside the pipelines.
let usePlan = null;
function askPlans() {
  const one = variant();
  if (one.plans || !one.morePlans) return;
  one.plans = { waiting: true, done: 0, total: 0 };
  one.morePlans(
    (found) => { one.plans = found || undefined; if (!found) state.plans = false; update(); },
    (done, total) => { Object.assign(one.plans, { done, total }); if (variant() === one) drawFar(one); });
}

// How far the server is with the plans.
function drawFar({ plans }) {
  const bar = $("plans-far"), waiting = Boolean(plans && plans.waiting);
  bar.hidden = $("plans-count").hidden = !waiting;
  if (!waiting) return;
  if (plans.total) { bar.max = plans.total; bar.value = plans.done; } else bar.removeAttribute("value");
  $("plans-count").textContent = plans.total ? `${plans.done} of ${plans.total}` : "";
}
