// Servers as they were when the report was made: plans within limits, and simulated requests. Their
// numbers are texts of serve-plan and serve-simulate, and follow the choice of pipeline and device alone.
const STILL = "Made with the report: these numbers do not follow the controls.";
const NUMERIC = /^([~+−-]?[\d.,]+(e[+-]?\d+)?( ?(%|[nµm]?s|[kMGT]))?|–|)$/;

let drawnServers = null;
function drawServers() {
  const wanted = DATA.wanted ? DATA.wanted[state.pipeline] : null, { served } = variant();
  $("wanted").hidden = !wanted;
  $("served").hidden = !served;
  if (!wanted && !served) return;
  const now = [state.device, state.pipeline, wanted ? roomOf($("wanted-found")) : 0].join();
  if (now === drawnServers) return;
  drawnServers = now;
  if (wanted) drawStill($("wanted-found"), "wanted", wanted, () => (wanted.front.length > 1 ? drawFront($("wanted-found"), wanted.front) : []));
  if (served) drawStill($("served-found"), "served", served, null);
}

// What a section says: what it is about, what must be said, its parts, and what it rests on.
function drawStill(place, id, found, chart) {
  if (found.why) { put(place, h("p", { class: "warning" }, found.why)); return; }
  const picture = !("picture" in found) ? null : found.picture === null ? h("p", { class: "note" }, found.unpictured)
    : h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "timeline of the first requests" }, text(found.picture)());
  put(place,
    h("p", { class: "note" }, `${found.about.join(", ")}. ${STILL}`),
    found.warnings.map((t) => h("p", { class: "warning" }, `⚠ ${t}`)),
    found.parts.flatMap((part, i) => drawPart(part, `${id}-${i}`, chart)),
    picture,
    h("details", {}, h("summary", {}, "What these numbers rest on"), h("ul", { class: "note" }, found.said.map((t) => h("li", {}, t)))));
}

const sentence = (t) => t.charAt(0).toUpperCase() + t.slice(1);
function drawPart(part, id, chart) {
  const title = part.title ? h("h3", { id }, sentence(part.title)) : null;
  const lone = part.title && !part.rows.length; // notes are all there is
  const notes = part.notes.map((t) => h(lone ? "li" : "p", { class: lone ? "" : "note" }, t));
  if (lone) return [h("details", {}, h("summary", {}, sentence(part.title)), h("ul", { class: "note" }, notes))];
  return [title, part.chart && chart ? chart() : null, part.rows.length ? drawRows(part, title ? { "aria-labelledby": id } : { "aria-label": "table" }) : null, notes].flat();
}

// The first column names its row, and a column of numbers stands to the right. A row of a name and
// why it has no numbers has one wide cell.
function drawRows({ head, rows, best }, about) {
  const table = h("table", { class: "still" }), alone = (row) => row.length > 2 && row.slice(2).every((t) => !t);
  const whole = rows.filter((row) => !alone(row)), right = head.map((_, i) => whole.length > 0 && whole.every((row) => NUMERIC.test(row[i])));
  const cell = (t, i, row) => h(i === 0 && !right[0] ? "th" : "td", { class: right[i] && !alone(row) ? "number" : "", scope: i === 0 && !right[0] ? "row" : null, colspan: i === 1 && alone(row) ? head.length - 1 : null }, breakable(t));
  const over = (t, i) => h(t ? "th" : "td", { scope: t ? "col" : null, class: right[i] ? "number" : "" }, breakable(t));
  const cells = (row) => (alone(row) ? row.slice(0, 2) : row).map((t, i) => cell(t, i, row));
  put(table, h("thead", {}, h("tr", {}, head.map(over))), h("tbody", {}, rows.map((row, n) => h("tr", { class: best && n === 0 ? "chosen" : "" }, cells(row)))));
  return h("div", { class: "scroll", tabindex: 0, role: "group", ...about }, table);
}

// Speed for a user against use of a device: each way is at least better in one of them.
function drawFront(place, points) {
  const wide = roomOf(place), tall = heightFor(wide, 402), kinds = [...new Set(points.map(([, , kind]) => kind))];
  const speeds = points.map(([v]) => v), uses = points.map(([, v]) => v);
  const { box, y } = boxOf(wide, tall, (bottom, top) => axis(Math.min(...uses) / 1.3, Math.max(...uses) * 1.3, bottom, top, true), "", 36);
  const x = axis(Math.min(...speeds) / 1.15, Math.max(...speeds) * 1.15, box.left, box.right, true);
  const { parts, below } = frame(x, y, box, "tokens/s for a user, 1/TPOT", "tokens/s a device", "", "");
  const sorted = [...points].sort((a, b) => a[0] - b[0]);
  parts.push(s("polyline", { class: "curve front", points: sorted.map(([v, u]) => `${x.place(v).toFixed(1)},${y.place(u).toFixed(1)}`).join(" ") }));
  for (const [speed, use, kind, how, low] of sorted) {
    const hue = kinds.indexOf(kind) % HUES, at = { x: x.place(speed), y: y.place(use) };
    parts.push(s("g", { class: `c${hue}${low ? " low" : ""}` }, s("title", {}, `${how}: ${digits(speed)} tokens/s a user, ${digits(use)} tokens/s a device${low ? "; its time to first token is mostly a lower estimate" : ""}`),
      s("circle", { class: "dot", cx: at.x, cy: at.y, r: 5 })));
  }
  const lowest = points.some((p) => p[4]);
  return [chart(wide, tall + below, { role: "img", "aria-label": `front of speed for a user against throughput of a device, ${points.length} points: from ${digits(sorted[0][0])} tokens/s a user at ${digits(sorted[0][1])} a device to ${digits(sorted.at(-1)[0])} at ${digits(sorted.at(-1)[1])}; the table below lists them` }, ...parts),
    key(kinds.map((kind, i) => [i, letter(i), kind])),
    h("p", { class: "note" }, `Means at each point’s own load, within the limit on the time to first token; the rate and the limit on the time per token play no part.${lowest ? " Pale: the time to first token is mostly a lower estimate." : ""}`)];
}
