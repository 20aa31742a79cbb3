// Charts are plain SVG: they print, scale, follow the theme, and their parts can take the focus.
const HUES = 6; // classes c0 … c5 in the style sheet, colour-blind safe; each also has a mark

// A scale of a chart: value to pixel, and its ticks.
function axis(low, high, from, to, log) {
  const most = Math.max(2, Math.floor(Math.abs(to - from) / (to > from ? 70 : 40))); // ticks that have room
  if (!(high > low)) { high = low > 0 ? low * 2 : 1; low = low > 0 ? low / 2 : 0; }
  const f = log ? Math.log10 : (v) => v;
  const place = (v) => from + ((f(v) - f(low)) / (f(high) - f(low))) * (to - from);
  const ticks = [];
  if (log) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first) / Math.min(8, most)));
    for (let e = first; e <= last; e += every) ticks.push(10 ** e);
    if (ticks.length < 3) {
      ticks.length = 0;
      for (let e = first - 1; e <= last; e++) {
        for (const m of [1, 2, 5]) { const v = m * 10 ** e; if (v >= low * 0.999 && v <= high * 1.001) ticks.push(v); }
      }
    }
  } else {
    const rough = (high - low) / Math.min(6, most), base = 10 ** Math.floor(Math.log10(rough));
    const by = [1, 2, 5, 10].find((m) => m * base >= rough) * base;
    for (let v = Math.ceil(low / by) * by; v <= high + by * 1e-6; v += by) ticks.push(Math.abs(v) < by * 1e-9 ? 0 : v);
  }
  return { place, ticks, low, high };
}

// Where a chart's plot lies: ticks of y have room at the left, what ends lines at the right.
function boxOf(width, height, yOf, yUnit, right = 20) {
  const top = 30, bottom = height - 46, y = yOf(bottom, top);
  const left = 14 + Math.max(...y.ticks.map((v) => widthOf(shown(v, yUnit), 11)), 24);
  return { box: { left, right: width - right, top, bottom, width }, y };
}

// Ticks and names of the axes. A tick whose text would touch the one before has none.
function frame(x, y, box, xText, yText, xUnit, yUnit) {
  const parts = [];
  let taken = -Infinity;
  for (const v of x.ticks) {
    const text = shown(v, xUnit), half = widthOf(text, 11) / 2, at = x.place(v);
    parts.push(s("line", { class: "grid", x1: at, x2: at, y1: box.top, y2: box.bottom }));
    if (at - half < taken || at + half > box.width) continue;
    taken = at + half + 6;
    parts.push(s("text", { class: "tick", x: at, y: box.bottom + 16, "text-anchor": "middle" }, text));
  }
  for (const v of y.ticks) {
    parts.push(s("line", { class: "grid", x1: box.left, x2: box.right, y1: y.place(v), y2: y.place(v) }));
    parts.push(s("text", { class: "tick", x: box.left - 6, y: y.place(v) + 4, "text-anchor": "end" }, shown(v, yUnit)));
  }
  parts.push(s("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  parts.push(s("line", { class: "axis", x1: box.left, x2: box.left, y1: box.top, y2: box.bottom }));
  const name = wrapped({ class: "name", x: box.width / 2, y: box.bottom + 36, "text-anchor": "middle" }, xText, box.width - 8);
  parts.push(name.node);
  parts.push(s("text", { class: "name", x: Math.min(box.left, Math.max(2, box.width - widthOf(yText, 13))), y: box.top - 10 }, yText));
  return { parts, below: 16 * (name.lines - 1) };
}

function key(entries) {
  return h("ul", { class: "key" }, entries.map(([index, mark, text]) =>
    h("li", {}, h("span", { class: `swatch c${index % HUES}`, "aria-hidden": "true" }, mark), ` ${mark}: ${text}`)));
}

// Horizontal stacked bars: [{name, letter, parts: [[label, value]]}]; marks are numbers, not hues alone.
// What stands behind a bar stands below it where that leaves the bars too little.
function stackedBars(place, rows, unit, label) {
  const names = [...new Set(rows.flatMap((r) => r.parts.map(([n]) => n)))];
  const whole = (r) => r.parts.reduce((a, [, v]) => a + v, 0), end = (r) => shown(whole(r), unit) + r.note;
  const top = Math.max(...rows.map(whole), 0);
  if (!(top > 0)) return [h("p", {}, "Nothing to show here.")];
  const wide = roomOf(place), left = 30, behind = 16 + Math.max(...rows.map((r) => widthOf(end(r), 13)));
  const below = behind > 0.6 * (wide - left), tall = 34, step = tall + (below ? 28 : 10), room = wide - left - (below ? 4 : behind);
  const parts = rows.flatMap((r, i) => {
    const y = 6 + i * step;
    let x = left;
    const drawn = r.parts.map(([name, value]) => {
      const width = (value / top) * room, number = names.indexOf(name) + 1, text = `${number}: ${shown(value, unit)}`;
      const piece = s("g", {},
        s("title", {}, `${r.letter}, ${name}: ${shown(value, unit)}`),
        s("rect", { class: `piece c${(number - 1) % HUES}`, x, y, width: Math.max(width, 0), height: tall }),
        width > 16 ? s("text", { class: `inside t${(number - 1) % HUES}`, x: x + width / 2, y: y + 22, "text-anchor": "middle" },
          width > widthOf(text) + 6 ? text : String(number)) : null);
      x += width;
      return piece;
    });
    const told = below ? wrapped({ class: "label", x: left, y: y + tall + 15 }, end(r), wide - left).node : s("text", { class: "label", x: x + 8, y: y + 22 }, end(r));
    return [s("text", { class: "label", x: left - 10, y: y + 22, "text-anchor": "end" }, r.letter), ...drawn, told];
  });
  const text = rows.map((r) => `${r.letter}: ${r.parts.map(([n, v]) => `${n} ${shown(v, unit)}`).join(", ")}`).join("; ");
  return [
    chart(wide, rows.length * step + 8, { role: "img", "aria-label": `${label}. ${text}` }, ...parts),
    key(names.map((name, i) => [i, String(i + 1), name])),
  ];
}

const STACKS = { latency: "latency of the request, by phase", kinds: "time of one step, by kind of operation", bounds: "time of one step, by what bounds it", races: "what runs at the same time in one step", memory: "peak memory, by use" };

// A bar per body of everything that runs at the same time, the longest first.
function raceBars(p) {
  const one = variant(p), found = one.phases.find((x) => x.name === state.phase) || one.phases[0];
  const bars = step(found).races.flatMap((race) => {
    const longest = Math.max(...race.bodies.map((b) => b.seconds));
    return race.bodies.filter((b) => b.seconds > longest / 1000).map((b) => ({
      letter: letter(p), parts: [[b.shared ? `${b.body.replace("link:", "link ").replace(/(\w+):(\w+)/, "$2 $1")}, of all bodies` : b.body, b.seconds]], seconds: b.seconds,
      note: ` ${race.name}${b.seconds < longest ? `, ${shown(longest - b.seconds, "s")} to spare` : ""}`,
    }));
  });
  return bars.sort((a, b) => b.seconds - a.seconds).slice(0, 8);
}

function drawBars(results) {
  if (state.stack === "races") {
    const bars = compared().flatMap(raceBars);
    $("bars").replaceChildren(...(bars.length ? stackedBars($("bars"), bars, "s", STACKS.races) : [h("p", {}, "In these pipelines nothing runs at the same time.")]));
    return;
  }
  const rows = compared().map((p) => {
    const one = variant(p);
    let parts = [], note = "";
    if (state.stack === "latency") parts = results[p].parts;
    else if (state.stack === "memory") {
      const most = results[p].memory.reduce((a, b) => (b.whole > a.whole ? b : a));
      parts = [["weights", most.weights], ["caches", most.caches], ["activations", most.whole - most.weights - most.caches]];
    } else {
      const found = one.phases.find((x) => x.name === state.phase) || one.phases.find((x) => (x.context === null) === (phase().context === null)) || one.phases[0];
      if (found.name !== state.phase) note = ` (${found.name})`;
      if (found.step !== null) note += " (in turn)";
      const sums = new Map();
      for (const row of step(found).rows) {
        const name = state.stack === "kinds" ? row.kind : row.bound;
        sums.set(name, (sums.get(name) || 0) + row.total);
      }
      const sorted = [...sums].filter(([, v]) => v > 0).sort((a, b) => b[1] - a[1]);
      parts = sorted.slice(0, 5);
      const rest = sorted.slice(5).reduce((a, [, v]) => a + v, 0);
      if (rest) parts.push(["all others", rest]);
    }
    return { letter: letter(p), parts, note };
  });
  $("bars").replaceChildren(...stackedBars($("bars"), rows, state.stack === "memory" ? "byte" : "s", STACKS[state.stack]));
}

// The roofline of one step: roofs of what its operations use, a point per operation.
function drawRoofline(rows) {
  const timed = rows.filter((r) => r.seconds > 0 && r.flops > 0 && r.bytes > 0);
  if (!timed.length) { $("roofline").replaceChildren(h("p", {}, "No operation of this step both computes and moves bytes.")); return; }
  const bandwidth = valueOf("BW");
  const rates = [...new Set(timed.flatMap((r) => r.work.map(([rate]) => rate)))].map((rate) => [rate, valueOf(rate)]);
  const roofs = rates.filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
  if (!roofs.length) { $("roofline").replaceChildren(h("p", {}, "No operation of this step is timed by a peak: their fitted times depend on bytes alone.")); return; }
  const reach = timed.map((r) => r.intensity), ridges = roofs.map(([, v]) => v / bandwidth);
  const reached = timed.map((r) => r.flops / r.seconds), low = Math.min(...reach, ...ridges) / 3;
  const wide = roomOf($("roofline")), tall = heightFor(wide, 446);
  const { box, y } = boxOf(wide, tall, (bottom, top) => axis(Math.min(...reached, low * bandwidth) / 1.5, roofs[0][1] * 2.5, bottom, top, true), "");
  const x = axis(low, Math.max(...reach, ...ridges) * 4, box.left, box.right, true);
  const { parts, below } = frame(x, y, box, "arithmetic intensity, FLOP/byte", "FLOP/s", "", "");
  const highest = roofs[0][1] / bandwidth;
  parts.push(s("line", { class: "roof", x1: x.place(x.low), y1: y.place(x.low * bandwidth), x2: x.place(highest), y2: y.place(roofs[0][1]) }));
  const middle = x.low * (Math.min(...ridges) / x.low) ** 0.25, slope = (y.place(bandwidth * 10) - y.place(bandwidth)) / (x.place(10) - x.place(1));
  const turn = (Math.atan(slope) * 180) / Math.PI, mx = x.place(middle), my = y.place(middle * bandwidth) - 8;
  parts.push(s("text", { class: "roof-name", x: mx, y: my, transform: `rotate(${turn.toFixed(2)} ${mx} ${my})`, "text-anchor": "middle" }, shown(bandwidth, "B/s")));
  // A roof's name stands above it, or below, where it crosses no other line; else below the chart.
  const unnamed = [], taken = [];
  const covered = (x, y, width) => taken.some((t) => t.x < x + width && x < t.x + t.width && Math.abs(t.y - y) < 13);
  for (const [rate, value] of roofs) {
    const ridge = value / bandwidth, at = y.place(value), head = `${figureUnit(rate)[2]}: ${shown(value, "FLOP/s")}`;
    parts.push(s("line", { class: "roof", x1: x.place(ridge), x2: box.right, y1: at, y2: at }));
    const free = (low, from, text) => from + widthOf(text) < box.right - 4 && low - 12 > box.top - 8 && !covered(from, low, box.right - 4 - from) && !roofs.some(([r, v]) => r !== rate && y.place(v) > low - 12 && y.place(v) < low + 3);
    const found = [`${head}, ridge ${digits(ridge)} FLOP/byte`, head].flatMap((text) => [[at - 6, value === roofs[0][1] ? box.left : x.place(ridge) - 20 / slope + 4, text], [at + 15, x.place(ridge) + 4, text]]).find((place) => free(...place));
    if (!found) { unnamed.push(head); continue; }
    taken.push({ x: box.right - 4 - widthOf(found[2]), y: found[0], width: widthOf(found[2]) });
    parts.push(s("text", { class: "roof-name", x: box.right - 4, y: found[0], "text-anchor": "end" }, found[2]));
  }
  const groups = new Map();
  for (const row of timed) {
    const at = `${row.intensity.toPrecision(3)} ${(row.flops / row.seconds).toPrecision(3)} ${row.bound}`;
    if (!groups.has(at)) groups.set(at, []);
    groups.get(at).push(row);
  }
  const points = [...groups.values()].sort((a, b) => a[0].intensity - b[0].intensity);
  const labels = [];
  for (const group of points) {
    const row = group[0], share = group.reduce((a, r) => a + r.share, 0);
    const px = x.place(row.intensity), py = y.place(row.flops / row.seconds), size = 5 + 11 * Math.sqrt(share);
    const short = row.name.length > 28 ? `${row.name.slice(0, 27)}…` : row.name;
    const name = group.length > 1 ? `${short} and ${group.length - 1} more` : short;
    const open = () => select(row.index, true);
    const shape = row.bound === "compute"
      ? s("rect", { x: px - size, y: py - size, width: 2 * size, height: 2 * size })
      : row.bound === "latency" ? s("polygon", { points: `${px},${py - 1.2 * size} ${px + 1.2 * size},${py + size} ${px - 1.2 * size},${py + size}` })
      : row.bound === "link" ? s("polygon", { points: `${px},${py - 1.3 * size} ${px + 1.3 * size},${py} ${px},${py + 1.3 * size} ${px - 1.3 * size},${py}` })
      : s("circle", { cx: px, cy: py, r: size });
    parts.push(s("g", {
      class: `point ${row.bound}${group.some((r) => r.index === state.selected) ? " selected" : ""}`, tabindex: 0, role: "button",
      "aria-label": `${group.map((r) => r.name).slice(0, 12).join(", ")}: ${digits(row.intensity)} FLOP/byte, ${shown(row.flops / row.seconds, "FLOP/s")}, bound by ${row.bound}, ${percent(share)} of the time`,
      onclick: open, onkeydown: (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); open(); } },
    }, s("title", {}, `${group.map((r) => r.name).slice(0, 12).join(", ")} · ${percent(share)}`), shape));
    if (share > 0.02) labels.push({ px, py, size, name: `${name} ${percent(share)}`, share });
  }
  // The heaviest points are named first, to the right and below or to the left and above, where no roof
  // is, nor the slope that most stand on; a name that would cover another or stand far off is left out.
  const slant = (at) => y.place(x.low * bandwidth) + slope * (at - x.place(x.low)), corner = x.place(highest);
  for (const { px, py, size, name } of labels.sort((a, b) => b.share - a.share)) {
    const width = widthOf(name, 11.5), right = Math.max(box.left + 2, Math.min(px + size + 4, box.right - width));
    const crossed = (from, at) => roofs.some(([, v]) => x.place(v / bandwidth) < from + width && y.place(v) > at - 12 && y.place(v) < at + 3)
      || (from < corner && slant(from) > at - 12 && slant(Math.min(from + width, corner)) < at + 3);
    const places = [...[12, 26, 40, 54].map((down) => [right, py + down]), ...[4, 18, 32].map((up) => [px - size - 4 - width, py - up])];
    const free = places.find(([from, at]) => from > box.left && at < box.bottom - 4 && at > box.top + 10 && !covered(from, at, width) && !crossed(from, at));
    if (!free || width > box.right - box.left) continue;
    taken.push({ x: free[0], y: free[1], width });
    parts.push(s("text", { class: "point-name", x: free[0], y: free[1] }, name));
  }
  $("roofline").replaceChildren(
    chart(wide, tall + below, { role: "group", "aria-label": "roofline; its points are listed in the table of operations" }, ...parts),
    h("p", { class: "hint" }, `● bound by memory   ■ bound by compute${calibrated() ? "   ▲ bound by latency" : ""}${timed.some((r) => r.bound === "link") ? "   ◆ bound by a link" : ""}; the area grows with the share of the step’s time. Operations without arithmetic have no place here.${calibrated() ? " Roofs are stated peaks, points fitted times." : ""}${unnamed.length ? ` Roofs: ${unnamed.join("; ")}.` : ""}`));
}
