// Charts are drawn for the room that they have: one unit is one pixel, so text keeps its size, and
// what a wide chart shows in one line a narrow one shows in several, or leaves out.
const WIDEST = 900, NARROWEST = 260, ASSUMED = 860;
const EM = 0.6; // of a letter's width to its height, on the wide side
const rooms = new Map();

// Another width than that of the last drawing: drawn anew. Sizes come with the report, nothing is laid out for them.
const widths = new ResizeObserver((entries) => {
  let moved = false;
  for (const { target, contentRect } of entries) {
    const width = Math.floor(contentRect.width);
    if (!width || width === rooms.get(target)) continue; // what is hidden has none
    rooms.set(target, width);
    moved = true;
  }
  if (moved && DATA) update();
});

// Pixels for the charts of a place.
function roomOf(place) {
  if (!rooms.has(place)) {
    rooms.set(place, place.clientWidth);
    widths.observe(place);
  }
  return Math.min(Math.max(rooms.get(place) || ASSUMED, NARROWEST), WIDEST);
}

const widthOf = (text, size = 12) => text.length * size * EM;

// Text in as many lines as it takes, the first at y.
function wrapped(attributes, text, room, size = 13) {
  const lines = [];
  for (const word of text.split(" ")) {
    const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
    if (lines.length && widthOf(longer, size) <= room) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return { lines: lines.length, node: s("text", attributes, ...lines.map((line, i) => s("tspan", { x: attributes.x, dy: i ? size + 3 : 0 }, line))) };
}

const chart = (width, height, attributes, ...parts) => s("svg", { class: "chart", width, viewBox: `0 0 ${width} ${height}`, ...attributes }, ...parts);
// Less room makes a chart lower, too, but not as much.
const heightFor = (width, full) => Math.round(Math.min(full, Math.max(240, width * 0.72)));
