// Charts are plain SVG: they print, scale, follow the theme, and their parts can take the focus.
const HUES = 6; // classes c0 … c5 in the style sheet, colour-blind safe; each also has a mark

// A scale of a chart: value to pixel, and its ticks.
function axis(low, high, from, to, log) {
  if (!(high > low)) { high = low > 0 ? low * 2 : 1; low = low > 0 ? low / 2 : 0; }
  const f = log ? Math.log10 : (v) => v;
  const place = (v) => from + ((f(v) - f(low)) / (f(high) - f(low))) * (to - from);
  const ticks = [];
  if (log) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first) / 8));
    for (let e = first; e <= last; e += every) ticks.push(10 ** e);
    if (ticks.length < 3) {
      ticks.length = 0;
      for (let e = first - 1; e <= last; e++) {
        for (const m of [1, 2, 5]) { const v = m * 10 ** e; if (v >= low * 0.999 && v <= high * 1.001) ticks.push(v); }
      }
    }
  } else {
    const rough = (high - low) / 6, base = 10 ** Math.floor(Math.log10(rough));
    const by = [1, 2, 5, 10].find((m) => m * base >= rough) * base;
    for (let v = Math.ceil(low / by) * by; v <= high + by * 1e-6; v += by) ticks.push(Math.abs(v) < by * 1e-9 ? 0 : v);
  }
  return { place, ticks, low, high };
}

function frame(x, y, box, xText, yText, xUnit, yUnit) {
  const parts = [];
  for (const v of x.ticks) {
    parts.push(s("line", { class: "grid", x1: x.place(v), x2: x.place(v), y1: box.top, y2: box.bottom }));
    parts.push(s("text", { class: "tick", x: x.place(v), y: box.bottom + 16, "text-anchor": "middle" }, shown(v, xUnit)));
  }
  for (const v of y.ticks) {
    parts.push(s("line", { class: "grid", x1: box.left, x2: box.right, y1: y.place(v), y2: y.place(v) }));
    parts.push(s("text", { class: "tick", x: box.left - 6, y: y.place(v) + 4, "text-anchor": "end" }, shown(v, yUnit)));
  }
  parts.push(s("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  parts.push(s("line", { class: "axis", x1: box.left, x2: box.left, y1: box.top, y2: box.bottom }));
  parts.push(s("text", { class: "name", x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle" }, xText));
  parts.push(s("text", { class: "name", x: box.left, y: box.top - 10 }, yText));
  return parts;
}

function key(entries) {
  return h("ul", { class: "key" }, entries.map(([index, mark, text]) =>
    h("li", {}, h("span", { class: `swatch c${index % HUES}`, "aria-hidden": "true" }, mark), ` ${mark}: ${text}`)));
}

// Horizontal stacked bars: [{name, letter, parts: [[label, value]]}]; marks are numbers, not hues alone.
function stackedBars(rows, unit, label, room = 700) {
  const names = [...new Set(rows.flatMap((r) => r.parts.map(([n]) => n)))];
  const top = Math.max(...rows.map((r) => r.parts.reduce((a, [, v]) => a + v, 0)), 0);
  if (!(top > 0)) return [h("p", {}, "Nothing to show here.")];
  const wide = 860, tall = 34, left = 40;
  const parts = rows.flatMap((r, i) => {
    const y = 6 + i * (tall + 10);
    let x = left;
    const drawn = r.parts.map(([name, value]) => {
      const width = (value / top) * room, number = names.indexOf(name) + 1;
      const piece = s("g", {},
        s("title", {}, `${r.letter}, ${name}: ${shown(value, unit)}`),
        s("rect", { class: `piece c${(number - 1) % HUES}`, x, y, width: Math.max(width, 0), height: tall }),
        width > 16 ? s("text", { class: `inside t${(number - 1) % HUES}`, x: x + width / 2, y: y + 22, "text-anchor": "middle" },
          width > 90 ? `${number}: ${shown(value, unit)}` : String(number)) : null);
      x += width;
      return piece;
    });
    const whole = r.parts.reduce((a, [, v]) => a + v, 0);
    return [s("text", { class: "label", x: 24, y: y + 22, "text-anchor": "end" }, r.letter), ...drawn,
      s("text", { class: "label", x: x + 8, y: y + 22 }, shown(whole, unit) + r.note)];
  });
  const text = rows.map((r) => `${r.letter}: ${r.parts.map(([n, v]) => `${n} ${shown(v, unit)}`).join(", ")}`).join("; ");
  return [
    s("svg", { class: "chart", viewBox: `0 0 ${wide} ${rows.length * (tall + 10) + 8}`, role: "img", "aria-label": `${label}. ${text}` }, ...parts),
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
    $("bars").replaceChildren(...(bars.length ? stackedBars(bars, "s", STACKS.races, 400) : [h("p", {}, "In these pipelines nothing runs at the same time.")]));
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
  $("bars").replaceChildren(...stackedBars(rows, state.stack === "memory" ? "byte" : "s", STACKS[state.stack]));
}

// The roofline of one step: roofs of what its operations use, a point per operation.
function drawRoofline(rows) {
  const timed = rows.filter((r) => r.seconds > 0 && r.flops > 0 && r.bytes > 0);
  if (!timed.length) { $("roofline").replaceChildren(h("p", {}, "No operation of this step both computes and moves bytes.")); return; }
  const bandwidth = valueOf("BW");
  const rates = [...new Set(timed.flatMap((r) => r.work.map(([rate]) => rate)))].map((rate) => [rate, valueOf(rate)]);
  const roofs = rates.filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
  if (!roofs.length) { $("roofline").replaceChildren(h("p", {}, "No operation of this step is timed by a peak: their fitted times depend on bytes alone.")); return; }
  const box = { left: 96, right: 840, top: 30, bottom: 400 };
  const reach = timed.map((r) => r.intensity), ridges = roofs.map(([, v]) => v / bandwidth);
  const x = axis(Math.min(...reach, ...ridges) / 3, Math.max(...reach, ...ridges) * 4, box.left, box.right, true);
  const reached = timed.map((r) => r.flops / r.seconds);
  const y = axis(Math.min(...reached, x.low * bandwidth) / 1.5, roofs[0][1] * 2.5, box.bottom, box.top, true);
  const parts = frame(x, y, box, "arithmetic intensity, FLOP/byte", "FLOP/s", "", "");
  const highest = roofs[0][1] / bandwidth;
  parts.push(s("line", { class: "roof", x1: x.place(x.low), y1: y.place(x.low * bandwidth), x2: x.place(highest), y2: y.place(roofs[0][1]) }));
  const middle = x.low * (Math.min(...ridges) / x.low) ** 0.25, slope = (y.place(bandwidth * 10) - y.place(bandwidth)) / (x.place(10) - x.place(1));
  const turn = (Math.atan(slope) * 180) / Math.PI, mx = x.place(middle), my = y.place(middle * bandwidth) - 8;
  parts.push(s("text", { class: "roof-name", x: mx, y: my, transform: `rotate(${turn.toFixed(2)} ${mx} ${my})`, "text-anchor": "middle" }, shown(bandwidth, "B/s")));
  for (const [rate, value] of roofs) {
    const ridge = value / bandwidth;
    parts.push(s("line", { class: "roof", x1: x.place(ridge), x2: box.right, y1: y.place(value), y2: y.place(value) }));
    parts.push(s("text", { class: "roof-name", x: box.right - 4, y: y.place(value) - 6, "text-anchor": "end" }, `${figureUnit(rate)[2]}: ${shown(value, "FLOP/s")}, ridge ${digits(ridge)} FLOP/byte`));
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
    const name = group.length > 1 ? `${row.name} and ${group.length - 1} more` : row.name;
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
    if (share > 0.02) labels.push({ px, py: py + size + 14, name: `${name} ${percent(share)}`, share });
  }
  // The heaviest points are named first; a name that would cover another is left out.
  const taken = [];
  for (const { px, py, name } of labels.sort((a, b) => b.share - a.share)) {
    const half = name.length * 3.4, cx = Math.min(Math.max(px, box.left + half), box.right - half);
    const free = [py, py + 14, py + 28, py - 46].find((at) => at < box.bottom - 4 && !taken.some((t) => Math.abs(t.x - cx) < t.half + half && Math.abs(t.y - at) < 13));
    if (free === undefined) continue;
    taken.push({ x: cx, y: free, half });
    parts.push(s("text", { class: "point-name", x: cx, y: free, "text-anchor": "middle" }, name));
  }
  $("roofline").replaceChildren(
    s("svg", { class: "chart", viewBox: "0 0 860 446", role: "group", "aria-label": "roofline; its points are listed in the table of operations" }, ...parts),
    h("p", { class: "hint" }, `● bound by memory   ■ bound by compute${calibrated() ? "   ▲ bound by latency" : ""}${timed.some((r) => r.bound === "link") ? "   ◆ bound by a link" : ""}; the area grows with the share of the step’s time. Operations without arithmetic have no place here.${calibrated() ? " Roofs are stated peaks, points fitted times." : ""}`));
}
