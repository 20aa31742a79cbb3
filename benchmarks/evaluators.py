"""Formulas over arrays: every engine against a loop in C written by hand, in one run.

The C loop computes the decode formula (time per output token) as one would write
it: per term the larger of its affine arms, coefficients as constants. Everything
runs on one core; times include the checks of the inputs where an engine has them
and the memory of the result everywhere.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sympy import Poly, lambdify

import costgraph as cg
from costgraph.formula import Formula
from costgraph.formula.terms import collected
from costgraph.formula.vector import compile_vector
from costgraph.showing.export.code import source
from costgraph.symbols import B, T

FLAGS = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
Evaluate = Callable[..., np.ndarray]


def median(action: Callable[[], object], runs: int) -> float:
    """Median processor seconds of ``action`` after one call to warm up.

    Everything here runs on one thread; processor time leaves out what others do.
    """
    action()
    samples = []
    for _ in range(runs):
        start = time.process_time()
        action()
        samples.append(time.process_time() - start)
    return statistics.median(samples)


def by_hand(formula: Formula) -> str:
    """A C loop over points (B, T) of a sum of maxima of a + b·B + c·B·T."""
    lines = []
    for term in collected(formula.terms):
        arms = []
        for arm in term.arms:
            parts = []
            for (b, t), coefficient in Poly(arm.expr, B, T).terms():
                factors = [repr(float(coefficient)), *["b"] * b, *["t"] * t]
                parts.append("*".join(factors))
            arms.append(" + ".join(parts))
        shown = arms[0]
        for other in arms[1:]:
            shown = f"MAX({shown}, {other})"
        lines.append(f"        s += {float(term.count)!r} * ({shown});")
    return "\n".join(
        [
            "#define MAX(x, y) ((x) > (y) ? (x) : (y))",
            "void decode(long n, const double *restrict B, const double *restrict T,",
            "            double *restrict out) {",
            "    for (long i = 0; i < n; i++) {",
            "        double b = B[i], t = T[i], s = 0.0;",
            *lines,
            "        out[i] = s;",
            "    }",
            "}",
        ]
    )


def shared_library(text: str, folder: Path, name: str) -> ctypes.CDLL:
    """C text compiled and loaded."""
    path = folder / f"{name}.c"
    path.write_text(text, encoding="utf-8")
    library = folder / f"{name}.so"
    subprocess.run(["cc", *FLAGS, str(path), "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


def c_function(text: str, folder: Path, name: str, inputs: int) -> Evaluate:
    """A loop ``name(n, inputs…, out)`` in C as a function of arrays."""
    function = getattr(shared_library(text, folder, name), name)
    function.restype = None
    flat = np.ctypeslib.ndpointer(dtype=np.float64, ndim=1, flags="C_CONTIGUOUS")
    function.argtypes = [ctypes.c_long, *(flat,) * (inputs + 1)]

    def evaluate(*arrays: np.ndarray) -> np.ndarray:
        out = np.empty(len(arrays[0]))
        function(len(out), *arrays, out)
        return out

    return evaluate


def generated_c(formula: Formula, folder: Path) -> Evaluate:
    """The function of the ``c`` code generator in a loop."""
    names = [s.name for s in formula.symbols]
    text = source(formula, "c", name="point").replace("double point(", "static double point(")
    arrays = ", ".join(f"const double *restrict p{i}" for i in range(len(names)))
    values = ", ".join(f"p{i}[i]" for i in range(len(names)))
    loop = (
        f"void generated(long n, {arrays}, double *restrict out) {{\n"
        f"    for (long i = 0; i < n; i++) out[i] = point({values});\n}}\n"
    )
    return c_function(text + loop, folder, "generated", len(names))


def optional(name: str) -> Any:
    """A library, or None where it is not installed."""
    try:
        return __import__(name)
    except ImportError:
        return None


def engines(formula: Formula, folder: Path) -> dict[str, Evaluate]:
    """Every way to evaluate a formula over arrays that is available here."""
    names = [s.name for s in formula.symbols]
    found: dict[str, Evaluate] = {}
    if optional("numba"):
        function = compile_vector([formula], engine="numba")
        found["compile_vector, numba"] = lambda *a: function(**dict(zip(names, a, strict=True)))[0]
    blocks = compile_vector([formula], engine="numpy")
    found["compile_vector, numpy"] = lambda *a: blocks(**dict(zip(names, a, strict=True)))[0]
    scope: dict[str, Any] = {}
    exec(source(formula, "numpy", name="over_arrays"), scope)
    found["generated NumPy, whole arrays"] = scope["over_arrays"]
    if shutil.which("cc"):
        found["generated C, cc"] = generated_c(formula, folder)
    if not any(term.span for term in formula.terms):
        expr = formula.expr
        found["sympy lambdify, NumPy"] = lambdify(
            formula.symbols, expr, modules=[{"Max": lambda *a: np.maximum.reduce(a)}, "numpy"]
        )
        if optional("numexpr"):
            found["numexpr"] = numexpr_function(formula)
        if optional("symengine"):
            found["symengine Lambdify"] = symengine_function(formula)
    return found


def numexpr_function(formula: Formula) -> Evaluate:
    """The formula in numexpr, on one thread."""
    import numexpr

    numexpr.set_num_threads(1)
    names = [s.name for s in formula.symbols]
    parts = []
    for term in collected(formula.terms):
        shown = [str(a.expr.evalf(17)) for a in term.arms]
        value = shown[0]
        for other in shown[1:]:
            value = f"where(({value}) > ({other}), {value}, {other})"
        parts.append(f"({term.count.evalf(17)})*({value})")
    text = " + ".join(parts)
    return lambda *a: numexpr.evaluate(text, local_dict=dict(zip(names, a, strict=True)))


def symengine_function(formula: Formula) -> Evaluate:
    """symengine's function, with the back end it takes by itself."""
    import symengine

    names = [symengine.Symbol(s.name) for s in formula.symbols]
    total = sum(
        symengine.sympify(t.count.evalf(17))
        * symengine.Max(*(symengine.sympify(a.expr.evalf(17)) for a in t.arms))
        for t in collected(formula.terms)
    )
    function = symengine.Lambdify(names, [total])
    return lambda *a: function(np.stack(a, axis=-1))[..., 0]


def machine() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def report(formula: Formula, arrays: list[np.ndarray], runs: int, hand: bool) -> None:
    """Points per second of every engine, each checked against the first."""
    points = len(arrays[0])
    arguments = ", ".join(s.name for s in formula.symbols)
    print(f"\n{formula.name}({arguments}), {points:,} points, one core, median of {runs}")
    with tempfile.TemporaryDirectory() as folder:
        found = engines(formula, Path(folder))
        if hand and shutil.which("cc"):
            loop = c_function(by_hand(formula), Path(folder), "decode", len(arrays))
            found = {"C by hand, cc -O3 -march=native -ffast-math": loop, **found}
        first = next(iter(found.values()))(*arrays)
        base = 0.0
        for name, evaluate in found.items():
            np.testing.assert_allclose(evaluate(*arrays), first, rtol=1e-12)
            rate = points / median(lambda f=evaluate: f(*arrays), runs)  # type: ignore[misc]
            base = base or rate
            print(f"  {name:46} {rate / 1e6:9.1f} M points/s   {rate / base:6.3f} of the first")


def scalars(compiled: cg.Compiled, runs: int) -> None:
    """One point at a time, in Python."""
    repeat = 2000
    print(f"\none point, Formula.evaluate, median of {runs}")
    for formula, point in (
        (compiled.tpot, {"B": 1, "T": 2048}),
        (compiled.latency, {"B": 1, "S": 1024, "N": 512}),
    ):
        took = median(lambda f=formula, p=point: [f.evaluate(**p) for _ in range(repeat)], runs)
        shown = ", ".join(f"{k}={v}" for k, v in point.items())
        print(f"  {formula.name + '(' + shown + ')':46} {took / repeat * 1e6:9.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--points", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print(f"{machine()}; Python {platform.python_version()}, NumPy {np.__version__}", end="")
    numba = optional("numba")
    print(f", Numba {numba.__version__}" if numba else "")
    generator = np.random.default_rng(0)

    def numbers(highest: int, count: int) -> np.ndarray:
        return generator.integers(1, highest, count).astype(float)

    compiled = cg.compile("llama-3-70b", "h100")
    count = arguments.points
    report(compiled.tpot, [numbers(512, count), numbers(10**5, count)], arguments.runs, True)
    small = max(count // 2, 1)
    three = [numbers(512, small), numbers(4096, small), numbers(10**5, small)]
    report(compiled.latency, three, arguments.runs, False)
    # With the machine's and the model's figures as symbols, sums keep their maxima.
    whole = cg.compile("llama-3-70b", "h100", symbolic_hardware=True).latency
    rates = {"BW": 3.35e12, "F_bf16": 989.4e12, "F_vector_fp32": 66.9e12, "F_special_fp32": 4e12}
    point = dict(zip(("B", "N", "S"), three, strict=True))
    ones = np.ones(small // 10 or 1)
    arrays = [
        point[s.name][: len(ones)] if s.name in point else ones * rates.get(s.name, 1e12)
        for s in whole.symbols
    ]
    report(whole, arrays, arguments.runs, False)
    scalars(compiled, arguments.runs)


if __name__ == "__main__":
    sys.exit(main())
