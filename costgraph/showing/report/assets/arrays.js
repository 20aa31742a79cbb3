// Numbers and arrays as Python and NumPy have them, for functions that are printed from Python.
const np = (() => {
  const many = (x) => Array.isArray(x) || ArrayBuffer.isView(x);
  // Loops, not Array.from: a slider's move evaluates them some thousand times.
  const made = (n, f) => { const found = new Float64Array(n); for (let i = 0; i < n; i++) found[i] = f(i); return found; };
  const binary = (f) => (a, b) => {
    if (many(a)) return many(b) ? made(a.length, (i) => f(a[i], b[i])) : made(a.length, (i) => f(a[i], b));
    return many(b) ? made(b.length, (i) => f(a, b[i])) : f(a, b);
  };
  const unary = (f) => (a) => (many(a) ? made(a.length, (i) => f(a[i])) : f(a));
  // Halves go to the even number.
  const even = (x) => { const r = Math.round(x); return r - x === 0.5 && r % 2 !== 0 ? r - 1 : r; };
  const range = (...given) => {
    const [start, stop, step] = given.length === 1 ? [0, given[0], 1] : [given[0], given[1], given[2] ?? 1];
    return made(Math.max(0, Math.ceil((stop - start) / step)), (i) => start + i * step);
  };
  const point = (x, xs, ys) => {
    if (x <= xs[0]) return ys[0];
    if (x >= xs[xs.length - 1]) return ys[ys.length - 1];
    let low = 0, high = xs.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] <= x) low = middle; else high = middle; }
    return ((ys[high] - ys[low]) / (xs[high] - xs[low])) * (x - xs[low]) + ys[low];
  };
  const sum = (a) => { let total = 0; for (let i = 0; i < a.length; i++) total += a[i]; return total; };
  const joined = (all) => {
    const found = new Float64Array(all.reduce((n, a) => n + a.length, 0));
    let at = 0;
    for (const a of all) { found.set(a, at); at += a.length; }
    return found;
  };
  const most = (f) => (...given) => { const a = given.length === 1 ? given[0] : given; let found = a[0]; for (let i = 1; i < a.length; i++) found = f(found, a[i]); return found; };
  return {
    inf: Infinity, nan: NaN,
    add: binary((a, b) => a + b), sub: binary((a, b) => a - b), mul: binary((a, b) => a * b),
    div: binary((a, b) => a / b), pow: binary((a, b) => a ** b),
    maximum: binary(Math.max), minimum: binary(Math.min),
    exp: unary((x) => Math.exp(x)), log: unary((x) => Math.log(x)), rint: unary(even), ceil: unary(Math.ceil),
    sum, dot: (a, b) => { let total = 0; for (let i = 0; i < a.length; i++) total += a[i] * b[i]; return total; },
    max: most(Math.max), min: most(Math.min),
    array: (a) => Float64Array.from(a), concatenate: joined,
    cumsum: (a) => { let total = 0; return made(a.length, (i) => (total += a[i])); },
    arange: range, range, len: (a) => a.length, round: even, abs: Math.abs, int: Math.trunc,
    geomspace: (a, b, n) => made(n, (i) => (i === 0 ? a : i === n - 1 ? b : a * (b / a) ** (i / (n - 1)))),
    unique: (a) => Float64Array.from(new Set([...a].sort((x, y) => x - y))),
    interp: (x, xs, ys) => (many(x) ? made(x.length, (i) => point(x[i], xs, ys)) : point(x, xs, ys)),
  };
})();
