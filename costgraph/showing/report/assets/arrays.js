// Numbers and arrays as Python and NumPy have them, for functions that are printed from Python.
const np = (() => {
  const many = (x) => Array.isArray(x) || ArrayBuffer.isView(x);
  const binary = (f) => (a, b) => {
    if (many(a)) return many(b) ? Float64Array.from(a, (x, i) => f(x, b[i])) : Float64Array.from(a, (x) => f(x, b));
    return many(b) ? Float64Array.from(b, (x) => f(a, x)) : f(a, b);
  };
  const unary = (f) => (a) => (many(a) ? Float64Array.from(a, f) : f(a));
  // Halves go to the even number.
  const even = (x) => { const r = Math.round(x); return r - x === 0.5 && r % 2 !== 0 ? r - 1 : r; };
  const range = (...given) => {
    const [start, stop, step] = given.length === 1 ? [0, given[0], 1] : [given[0], given[1], given[2] ?? 1];
    return Float64Array.from({ length: Math.max(0, Math.ceil((stop - start) / step)) }, (_, i) => start + i * step);
  };
  const point = (x, xs, ys) => {
    if (x <= xs[0]) return ys[0];
    if (x >= xs[xs.length - 1]) return ys[ys.length - 1];
    let low = 0, high = xs.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] <= x) low = middle; else high = middle; }
    return ((ys[high] - ys[low]) / (xs[high] - xs[low])) * (x - xs[low]) + ys[low];
  };
  const sum = (a) => a.reduce((total, x) => total + x, 0);
  return {
    inf: Infinity, nan: NaN,
    add: binary((a, b) => a + b), sub: binary((a, b) => a - b), mul: binary((a, b) => a * b),
    div: binary((a, b) => a / b), pow: binary((a, b) => a ** b),
    maximum: binary(Math.max), minimum: binary(Math.min),
    exp: unary((x) => Math.exp(x)), log: unary((x) => Math.log(x)), rint: unary(even),
    sum, dot: (a, b) => a.reduce((total, x, i) => total + x * b[i], 0),
    max: (...a) => (a.length === 1 ? a[0].reduce((x, y) => Math.max(x, y)) : Math.max(...a)),
    min: (...a) => (a.length === 1 ? a[0].reduce((x, y) => Math.min(x, y)) : Math.min(...a)),
    array: (a) => Float64Array.from(a), concatenate: (all) => Float64Array.from(all.flatMap((a) => [...a])),
    cumsum: (a) => { let total = 0; return Float64Array.from(a, (x) => (total += x)); },
    arange: range, range, len: (a) => a.length, round: even, abs: Math.abs, int: Math.trunc,
    geomspace: (a, b, n) => Float64Array.from({ length: n }, (_, i) => (i === 0 ? a : i === n - 1 ? b : a * (b / a) ** (i / (n - 1)))),
    unique: (a) => Float64Array.from(new Set([...a].sort((x, y) => x - y))),
    interp: (x, xs, ys) => (many(x) ? Float64Array.from(x, (v) => point(v, xs, ys)) : point(x, xs, ys)),
  };
})();
