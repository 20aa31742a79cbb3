"""Figures: what is on them, that they are deterministic, and that bad requests are refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("matplotlib")

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import costgraph as cg
from costgraph.errors import InputError
from costgraph.hardware.machine import Engine
from costgraph.showing import plot
from costgraph.showing.plot.curves import regimes_between
from costgraph.showing.plot.fronts import places, undominated
from costgraph.showing.plot.maps import boundary
from costgraph.showing.plot.rooflines import roofs_of
from costgraph.showing.plot.style import HATCHES, LINES, MARKERS, PALETTE, SHADE, WIDTHS, number
from costgraph.symbols import symbol

WIDTH = sorted(WIDTHS)


@pytest.fixture(scope="module")
def llama():
    return cg.compile("llama-2-7b", "a6000")


@pytest.fixture(scope="module")
def fused():
    return cg.compile("llama-2-7b", "a6000", "fuse")


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def gids(figure: Figure, prefix: str) -> list[object]:
    return [a for a in figure.findobj() if (a.get_gid() or "").startswith(prefix)]


def overlaps(figure: Figure, labels: list[matplotlib.text.Text]) -> int:
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in labels]
    return sum(
        1
        for a, b in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    )


# --- roofline ------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTH)
def test_roofline_has_roofs_ridges_and_operations(llama, width):
    figure = plot.roofline(llama, "prefill", B=1, S=2048, dtypes=("int8",), width=width)
    shown = " ".join(texts(figure))
    assert len(gids(figure, "roof-")) == 2
    assert "fp16 154.8 TFLOP/s, ridge 201.6" in shown
    assert "ridge 403.3" in shown
    assert "arithmetic intensity (FLOP/byte)" in shown
    assert "qk_matmul" in shown
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert tuple(figure.get_size_inches()) == WIDTHS[width][0]


def test_no_operation_is_above_its_roof(llama):
    figure = plot.roofline(llama, "prefill", B=1, S=2048)
    (axes,) = figure.axes
    roof = roofs_of(llama.machine, ("fp16",))[0]
    found = 0
    for points in axes.collections:
        for x, y in points.get_offsets():
            assert y <= min(roof.peak, x * roof.bandwidth) * (1 + 1e-9)
            found += 1
    assert found >= 5


@pytest.mark.parametrize(("phase", "values"), [("prefill", {"S": 2048}), ("decode", {"T": 2048})])
@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3-70b", "pythia-160m"])
def test_roofline_labels_do_not_overlap(name, phase, values):
    figure = plot.roofline(cg.compile(name, "h100"), phase, B=4, **values)
    (axes,) = figure.axes
    assert overlaps(figure, [t for t in axes.texts if t.get_text()]) == 0


def test_roofline_before_and_after_has_arrows(llama, fused):
    figure = plot.roofline(llama, "prefill", after=fused, B=1, S=2048)
    (axes,) = figure.axes
    arrows = [t for t in axes.texts if getattr(t, "arrow_patch", None) is not None]
    assert len(arrows) >= 3
    assert "before the passes" in " ".join(texts(figure))


def test_roofs_of_equal_height_are_one(llama):
    assert [r.name for r in roofs_of(llama.machine, ("fp16", "bf16"))] == ["fp16, bf16"]
    ridge = roofs_of(llama.machine, ("fp16",))[0].ridge
    peak = llama.machine.peaks[Engine.TENSOR, "fp16"]
    assert ridge == pytest.approx(float(peak / llama.machine.memory.bandwidth))


# --- curve ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "over", "span", "values"),
    [
        ("ttft", "S", (16, 4096), {"B": 1}),
        ("tpot", "B", (1, 1024), {"T": 2048}),
        ("tpot", "T", (16, 100_000), {"B": 300}),
        ("memory", "N", (2, 4096), {"B": 8, "S": 512}),
    ],
)
def test_curve_shades_exactly_the_regimes(llama, metric, over, span, values):
    formula = getattr(llama, metric)
    figure = plot.curve({"plain": formula}, over, *span, **values)
    found = formula.regimes(over, **values)
    inside = [p for p in found if float(p.lower) < span[1] and float(p.upper) > span[0]]
    shaded = gids(figure, "regime-")
    assert len(shaded) == len(inside) >= 1
    spans, _ = regimes_between(formula, over, *span, values)
    edges = [e for s in spans for e in s]
    assert edges[0] == span[0]
    assert edges[-1] == span[1]
    assert edges[1:-1:2] == edges[2:-1:2]  # neighbours meet


def test_curve_is_the_formula(llama):
    figure = plot.curve({"plain": llama.tpot}, "B", 1, 64, T=1024)
    (line,) = gids(figure, "curve-")
    for batch, seconds in list(zip(*line.get_data(), strict=True))[::40]:
        assert seconds == pytest.approx(llama.tpot.evaluate(B=batch, T=1024))
    assert figure.axes[0].get_xlabel() == "batch B (sequences)"
    assert figure.axes[0].get_ylabel() == "time per output token"


@pytest.mark.parametrize("over", ["BW", "F_fp16"])
def test_regimes_over_a_rate_agree_with_numbers(over):
    compiled = cg.compile("llama-2-7b", "a6000", symbolic_hardware=True)
    values = {s.name: float(v) for s, v in compiled.bound.bindings().items()}
    values |= {"B": 1, "S": 512}
    middle = values[over]
    spans, crossings = regimes_between(compiled.ttft, over, middle / 8, middle * 8, values)
    assert len(spans) == len({c.value for c in crossings}) + 1 >= 2
    assert spans[0][0] == pytest.approx(middle / 8)
    assert spans[-1][1] == pytest.approx(middle * 8)
    wanted = {s.name for s in compiled.ttft.symbols}
    for crossing in crossings:
        term = next(t for t in compiled.ttft.terms if set(crossing.ops) & set(t.ops))
        at = {k: v for k, v in values.items() if k in wanted} | {over: float(crossing.value)}
        sizes = {
            a.resource: float(a.expr.evalf(subs={symbol(k): v for k, v in at.items()}))
            for a in term.arms
        }
        assert sizes[crossing.below] == pytest.approx(sizes[crossing.above], rel=1e-6)


def test_curve_without_decided_regimes_says_so():
    compiled = cg.compile("llama-2-7b", "a6000", "page-kv")
    figure = plot.curve({"paged": compiled.latency}, "S", 16, 64, B=1, N=8)
    title = figure.axes[0].get_title(loc="left")
    assert ("regimes not shaded" in title) == (not gids(figure, "regime-"))


def test_several_curves_differ_in_line_too(llama, fused):
    figure = plot.curve({"a": llama.tpot, "b": fused.tpot}, "B", 1, 64, T=1024)
    lines = gids(figure, "curve-")
    assert len({line.get_linestyle() for line in lines}) == 2
    assert len({line.get_color() for line in lines}) == 2
    assert gids(figure, "regime-") == []


# --- map -----------------------------------------------------------------------------


def test_map_lines_are_exact(fused):
    figure = plot.regime_map(fused.ttft, "B", "S", (1, 64), (16, 4096))
    lines = gids(figure, "boundary-")
    assert lines
    terms = {", ".join(t.ops[:1]): t for t in fused.ttft.terms if len(t.arms) == 2}
    checked = 0
    for term in terms.values():
        solved = boundary(term, symbol("B"), symbol("S"))
        if solved is None:
            continue
        unknown, expr = solved
        other = symbol("S") if unknown == symbol("B") else symbol("B")
        point = {other: 7}
        point[unknown] = expr.subs(other, 7)
        a, b = (arm.expr.subs(point) for arm in term.arms)
        assert a == b
        checked += 1
    assert checked >= 2


def test_map_areas_agree_with_shares():
    from costgraph.formula.bounds import bound_shares

    compiled = cg.compile("llama-3-70b", "h100", "fuse")
    figure = plot.regime_map(compiled.tpot, "B", "T", (1, 4096), (128, 131072))
    assert {"memory", "tensor"} <= set(texts(figure))
    for batch, context, winner in [(1, 1024, "memory"), (4000, 200, "tensor:bf16")]:
        shares = bound_shares(compiled.tpot, {"B": batch, "T": context})
        assert max(shares, key=shares.__getitem__) == winner
    # Each name stands in its area.
    (axes,) = figure.axes
    for text in axes.texts:
        batch, context = text.get_position()
        shares = bound_shares(compiled.tpot, {"B": float(batch), "T": float(context)})
        assert max(shares, key=shares.__getitem__).startswith(text.get_text())


def test_map_refuses_what_has_no_map(llama):
    with pytest.raises(InputError, match="time of one step"):
        plot.regime_map(llama.memory, "B", "S", (1, 2), (1, 2), N=3)
    with pytest.raises(InputError, match="depends on B, T"):
        plot.regime_map(llama.tpot, "B", "S", (1, 2), (1, 2))
    with pytest.raises(InputError, match="two symbols"):
        plot.regime_map(llama.tpot, "B", "B", (1, 2), (1, 2))
    with pytest.raises(InputError, match="must rise"):
        plot.regime_map(llama.tpot, "B", "T", (2, 2), (1, 2))


# --- bars ----------------------------------------------------------------------------


def test_breakdown_stacks_add_up(llama):
    points = [1, 4, 16]
    figure = plot.breakdown(llama, "B", points, T=2048)
    left, right = figure.axes
    for axes, key in ((left, "seconds"), (right, "memory_bytes")):
        tops = [0.0] * len(points)
        for container in axes.containers:
            for index, bar in enumerate(container):
                tops[index] = max(tops[index], bar.get_y() + bar.get_height())
        for index, batch in enumerate(points):
            total = llama.breakdown("decode", B=batch, T=2048).totals[key]
            assert tops[index] == pytest.approx(total, rel=1e-9)
    hatches = [c[0].get_hatch() for c in left.containers]
    assert len(set(hatches)) == len(hatches)


def test_waterfall_ends_where_the_comparison_does():
    table = cg.compare("llama-2-7b", "a6000", ["fuse,quantize{weights=int8}"])
    figure = plot.waterfall(table)
    (axes,) = figure.axes
    bars = [c[0] for c in axes.containers]
    assert bars[-1].get_height() == pytest.approx(table.columns[0].latency)
    falls = sum(e.change for e in table.waterfalls[0])
    assert bars[0].get_height() + falls == pytest.approx(table.columns[0].latency)
    assert axes.get_xticklabels()[0].get_text() == "no passes"
    with pytest.raises(InputError, match="at least one pass"):
        plot.waterfall(cg.compare("llama-2-7b", "a6000", [""]))
    with pytest.raises(InputError, match="no pipeline 3"):
        plot.waterfall(table, 3)
    needing = "lora{merge=zero-points},quantize{weights=int4}"
    with pytest.raises(InputError, match="part of the pipeline is refused: lora"):
        plot.waterfall(cg.compare("llama-3.2-1b", "h100", needing))


def test_an_ablation_is_what_leaving_out_each_pass_costs():
    table = cg.compare("llama-2-7b", "a6000", ["fuse,quantize{weights=int8},page-kv"])
    (axes,) = plot.ablation(table).axes
    whole, *bars = [c[0] for c in axes.containers]
    assert whole.get_height() == table.columns[0].latency
    for bar, effect in zip(bars, table.ablations[0], strict=True):
        assert bar.get_height() == pytest.approx(abs(effect.change), abs=1e-12)
        assert bar.get_y() == pytest.approx(min(effect.latency, table.columns[0].latency))
    labels = [t.get_text() for t in axes.get_xticklabels()]
    assert labels[0] == "all passes"
    assert all(text.startswith("without") for text in labels[1:])


@pytest.mark.parametrize("kind", ["waterfall", "ablation"])
def test_effects_of_every_pipeline_with_passes_have_a_panel(kind):
    table = cg.compare("gpt2", ["a6000", "a100"], ["", "fuse", "fuse,page-kv"], S=64, N=8)
    figure = plot.effects(table, kind)
    shown = [a.get_title(loc="left") for a in figure.axes if a.axison]
    assert [t.split(",")[0] for t in shown] == [
        f"{d}: fuse" for d in ("a6000", "a6000", "a100", "a100")
    ]
    with pytest.raises(InputError, match="0 pipelines have passes"):
        plot.effects(cg.compare("gpt2", "a6000", S=64, N=8), kind)
    with pytest.raises(InputError, match="waterfall or ablation"):
        plot.effects(table, "bars")


def test_a_kind_of_operation_has_one_colour_in_all_panels():
    """Kinds are ranked by panel: a matrix product leads in a prefill, attention elsewhere."""
    pipelines = ["", "fuse", "quantize{weights=int4,activations=int8}"]
    table = cg.compare("llama-2-7b", "h100", pipelines, S=8192, N=4)
    found: dict[str, set[tuple[object, object]]] = {}
    for axes in plot.comparison(table).axes:
        for container in axes.containers:
            if not str(container.get_label()).startswith("_"):
                look = container[0].get_facecolor(), container[0].get_hatch()
                found.setdefault(container.get_label(), set()).add(look)
    assert len(found) > 5
    assert all(len(looks) == 1 for looks in found.values())
    looks = [next(iter(x)) for name, x in found.items() if name != "other"]
    assert len(set(looks)) == len(looks)


# --- fronts --------------------------------------------------------------------------


def test_undominated_points():
    points = [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (2.0, 2.0), (4.0, 3.0)]
    assert undominated(points) == {0, 1}


def test_front_knows_the_memory():
    compiled = cg.compile("llama-2-13b", "a6000")
    found = places(compiled, [1, 8, 64], T=2048)
    assert [p[3] for p in found] == [True, True, False]
    for batch in (1, 8, 64):
        table = compiled.breakdown("decode", B=batch, T=2048)
        fits = table.totals["memory_bytes"] <= 48e9
        assert next(p for p in found if p[2] == batch)[3] == fits
    figure = plot.pareto([compiled], [1, 8, 64], T=2048)
    (front,) = gids(figure, "front")
    assert len(front.get_xdata()) == 2


# --- the survey ----------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTH)
@pytest.mark.parametrize("name", sorted(plot.FIGURES))
def test_survey_figures_are_drawn(name, width):
    figure = plot.survey_figure(name, width)
    assert figure.axes
    for axes in figure.axes:
        assert axes.get_ylabel() or axes.get_title(loc="left") or axes.get_title()


def test_survey_figure_8_and_9_show_the_published_numbers():
    eight = gids(plot.survey_figure("survey-fig8"), "curve-")
    x, y = eight[0].get_data()
    assert np.interp(16, x, y) * 1e3 == pytest.approx(51.491, abs=0.01)
    nine = gids(plot.survey_figure("survey-fig9"), "curve-")
    x, y = nine[2].get_data()
    assert np.interp(512, x, y) * 1e3 == pytest.approx(92.480, abs=0.2)


def test_survey_figure_7_shows_the_published_fractions():
    shown = texts(plot.survey_figure("survey-fig7"))
    for fraction in ("0.28", "0.41", "0.57", "0.27", "0.34", "0.51"):
        assert fraction in shown


#: Percent of traffic and of time saved, as the survey prints them.
FIG16 = {
    "decode": [(1.5685, 1.5685), (12.2234, 12.2234), (38.1948, 38.1948), (16.9852, 16.9852),
               (33.3993, 33.3993)],
    "prefill": [(8.2942, 2.9986), (22.7418, 12.6405), (24.7964, 22.7280), (15.3381, 3.0050),
                (16.0183, 3.0053)],
}  # fmt: skip


def test_survey_figure_16_shows_the_published_savings():
    figure = plot.survey_figure("survey-fig16")
    for axes, phase in zip(figure.axes, ("decode", "prefill"), strict=True):
        traffic, time = (
            [bar.get_height() for bar in container] for container in axes.containers[:2]
        )
        for index, (bytes_saved, seconds_saved) in enumerate(FIG16[phase]):
            assert round(traffic[index], 4) == bytes_saved
            assert round(time[index], 4) == seconds_saved


def test_survey_figure_18_has_the_published_ridges():
    shown = " ".join(texts(plot.survey_figure("survey-fig18")))
    for ridge in ("ridge 201.6", "ridge 1728", "ridge 15.43"):
        assert ridge in shown


# --- all figures ---------------------------------------------------------------------


def test_palette_is_safe_without_colour():
    assert len(PALETTE) == len(set(PALETTE)) == len(MARKERS) == len(LINES)
    assert len(set(HATCHES)) == len(HATCHES)
    assert len(set(SHADE.values())) == len({h for _, h in SHADE.values()}) == len(SHADE)

    def seen(colour: str) -> np.ndarray:
        """What a reader without green receptors sees (Viénot et al. 1999, linear RGB)."""
        rgb = np.array(to_rgb(colour)) ** 2.2
        matrix = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
        return np.clip(np.array(matrix) @ rgb, 0, 1) ** (1 / 2.2)

    for a, b in itertools.combinations(PALETTE, 2):
        assert np.linalg.norm(seen(a) - seen(b)) > 0.08


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_files_are_deterministic_and_whole(llama, tmp_path, suffix):
    first = plot.save(plot.curve({"x": llama.tpot}, "B", 1, 64, T=512), tmp_path / f"a{suffix}")
    again = plot.save(plot.curve({"x": llama.tpot}, "B", 1, 64, T=512), tmp_path / f"b{suffix}")
    assert first.read_bytes() == again.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]
    if suffix == ".svg":
        ET.parse(first)


def settings() -> dict[str, object]:
    """All of matplotlib's settings but the backend, which loads pyplot when asked for."""
    return {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}


def test_nothing_global_changes(llama):
    before = settings()
    plot.roofline(llama, "decode", B=1, T=64)
    with pytest.raises(InputError):
        plot.curve({"x": llama.tpot}, "B", 2, 1, T=64)
    assert settings() == before


def test_pyplot_is_never_loaded(tmp_path):
    out = tmp_path / "x.svg"
    code = (
        "import sys\nfrom costgraph.cli import main\n"
        f"main(['plot', 'curve', 'gpt2', '--on', 'a6000', '--context', '64', '-o', {str(out)!r}])\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert out.exists()


def test_names_are_never_mathematics(llama, tmp_path):
    name = r"$\frac{1}{0$ <script> \n"
    figure = plot.curve({name: llama.tpot, "b": llama.tpot}, "B", 1, 8, T=64, title=name)
    text = plot.save(figure, tmp_path / "x.svg").read_text()
    ET.fromstring(text)
    assert "<script" not in text.replace("<!-- ", "")


def test_units_on_ticks():
    assert number(0.0042, "s") == "4.2 ms"
    assert number(768e9, "B/s") == "768 GB/s"
    assert number(1.5e14, "FLOP/s") == "150 TFLOP/s"


def test_bad_requests(llama, tmp_path):
    with pytest.raises(InputError, match="unknown width"):
        plot.curve({"x": llama.tpot}, "B", 1, 8, T=64, width="poster")
    with pytest.raises(InputError, match="depends on B, T"):
        plot.curve({"x": llama.tpot}, "S", 1, 8, T=64)
    with pytest.raises(InputError, match="do not share an axis"):
        plot.curve({"x": llama.ttft, "y": llama.memory}, "S", 1, 8, B=1, N=4)
    with pytest.raises(InputError, match="suffix names the format"):
        plot.save(Figure(), tmp_path / "x.gif")
    with pytest.raises(InputError, match="did you mean 'survey-fig"):
        plot.survey_figure("survey-fig10")


# --- command line --------------------------------------------------------------------

COMMANDS = {
    "roofline": ["gpt2", "--on", "a6000", "--prompt", "256", "--passes", "fuse"],
    "curve": ["gpt2", "--on", "a6000", "--metric", "ttft", "--over", "S", "--to", "512"],
    "map": ["gpt2", "--on", "a6000", "--over", "B,T", "--to", "64,1024"],
    "breakdown": ["gpt2", "--on", "a6000", "--context", "512", "--to", "8"],
    "waterfall": ["gpt2", "--on", "a6000", "--passes", "fuse", "--prompt", "64", "--generate", "8"],
    "ablation": ["gpt2", "--on", "a6000", "--passes", "fuse", "--prompt", "64", "--generate", "8"],
    "pareto": ["gpt2", "--on", "a6000", "--on", "a100", "--context", "512"],
}


@pytest.mark.parametrize(("width", "least"), [("column", 990), ("slide", 3000)])
def test_files_have_the_resolution_of_print(width, least, tmp_path, llama):
    figure = plot.roofline(llama, "decode", B=1, T=99, width=width)
    plot.save(figure, tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    assert int.from_bytes(data[16:20], "big") >= least
    assert len(figure._repr_png_()) < len(data)


@pytest.mark.parametrize("width", WIDTH)
@pytest.mark.parametrize("kind", sorted(COMMANDS))
def test_command_writes_a_figure(kind, width, tmp_path, capsys):
    from costgraph.cli import main

    out = tmp_path / "x.svg"
    assert main(["plot", kind, *COMMANDS[kind], "--width", width, "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    root = ET.parse(out).getroot()
    assert root.attrib["width"] == f"{WIDTHS[width][0][0] * 72:g}pt"


def test_survey_commands_match_the_figures():
    from costgraph.cli.draw import SURVEY

    assert set(SURVEY) == set(plot.FIGURES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rooflines", "gpt2", "-o", "x.svg"], "did you mean 'roofline'"),
        (["curve", "-o", "x.svg"], "needs a model"),
        (["curve", "gpt2", "-o", "x.svg"], "needs --on"),
        (["curve", "gpt2", "--on", "a6000", "-o", "x.svg"], "no value for T"),
        (["curve", "gpt2", "--on", "a6000", "--metric", "tpit", "-o", "x.svg"], "did you mean"),
        (["curve", "gpt2", "--on", "a6000", "--to", "nan", "-o", "x.svg"], "'nan' is not a"),
        (["map", "gpt2", "--on", "a6000", "--over", "B", "-o", "x.svg"], "two symbols"),
        (["survey-fig7", "-o", "x.jpg"], "suffix names the format"),
        (["survey-fig7", "--width", "wide", "-o", "x.svg"], "unknown width"),
        (["roofline", "gpt2", "--on", "a6000", "--context", "9", "--dtypes", "int3", "-o", "x.svg"],
         "int3"),
    ],
)  # fmt: skip
def test_command_errors_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    from costgraph.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["plot", *arguments])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert message in shown
    assert list(tmp_path.iterdir()) == []


def test_missing_matplotlib_names_the_extra():
    code = (
        "import sys, importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'matplotlib' else real(n, *a)\n"
        "from costgraph.cli import main\n"
        "main(['plot', 'survey-fig7', '-o', 'x.svg'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'costgraph[plot]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_needs_no_heavy_library():
    code = (
        "import sys\nfrom costgraph.cli import main\n"
        "try: main(['plot', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'sympy', 'matplotlib', 'numpy', 'networkx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


# --- what does not fit ---------------------------------------------------------------


def warnings_of(figure: Figure) -> str:
    return " ".join(t for t in " ".join(texts(figure)).split("⚠")[1:])


def test_a_curve_says_where_the_memory_is_full():
    compiled = cg.compile("llama-3-8b", "h100")
    largest = max(b for b in range(1, 513) if compiled.fit(B=b, T=8192).fits)
    figure = plot.curve(compiled, "B", 1, 512, T=8192)
    (line,) = gids(figure, "memory-full")
    assert 0.97 * largest <= line.get_xdata()[0] <= largest + 1
    assert f"beyond B={int(line.get_xdata()[0])} it does not fit h100" in warnings_of(figure)
    assert not gids(plot.curve(compiled, "B", 1, 16, T=8192), "memory-full")
    both = {
        "no passes": compiled,
        "int4": cg.compile("llama-3-8b", "h100", "quantize{weights=int4}"),
    }
    several = plot.curve(both, "B", 1, 512, T=8192)
    first, second = (a.get_xdata()[0] for a in gids(several, "memory-full"))
    assert first < second
    assert "no passes: beyond B=" in warnings_of(several)
    along = plot.curve(compiled, "T", 1024, 2**22, B=8)
    assert "beyond T=" in warnings_of(along)


@pytest.mark.parametrize("over", ["B", "BW"])
def test_a_curve_of_what_never_fits_says_so(over):
    compiled = cg.compile("llama-3-70b", "h100", symbolic_hardware=over == "BW")
    figure = plot.curve(compiled, over, *((1, 64) if over == "B" else (1e12, 1e13)), T=2048)
    assert "does not fit: it needs" in warnings_of(figure)


def test_the_end_of_the_memory_on_a_map_is_that_of_the_capacity():
    compiled = cg.compile("llama-3-8b", "h100")
    figure = plot.regime_map(compiled, "B", "T", (1, 512), (128, 32768))
    assert "memory full" in texts(figure)
    (axes,) = figure.axes
    red = to_rgb("#B3261E")
    (end,) = [c for c in axes.collections if len(c.get_edgecolor()) and
              tuple(c.get_edgecolor()[0][:3]) == pytest.approx(red)]  # fmt: skip
    for batch, context in np.concatenate([p.vertices for p in end.get_paths()])[::20]:
        used = compiled.fit(B=float(batch), T=float(context)).bytes
        assert used == pytest.approx(float(compiled.machine.memory.room), rel=0.02)
    small = plot.regime_map(compiled, "B", "T", (1, 4), (128, 1024))
    assert "memory full" not in texts(small)


def test_the_other_figures_warn_too(llama):
    large = cg.compile("llama-3-70b", "h100")
    assert "does not fit" in warnings_of(plot.roofline(large, "decode", B=1, T=2048))
    assert "does not fit" in warnings_of(plot.breakdown(large, "B", [1, 2], T=2048))
    grown = plot.breakdown(llama, "B", [1, 16, 64], T=2048)
    assert "from B=64 on it does not fit" in warnings_of(grown)
    table = cg.compare("llama-3-70b", "h100", ["", "quantize{weights=int4}"], S=64, N=8)
    assert "without passes it does not fit" in warnings_of(plot.waterfall(table, 1))
    assert "the result" not in warnings_of(plot.waterfall(table, 1))
    assert "no batch fits" in warnings_of(plot.pareto([large], [1, 2], T=2048))
    for figure in (
        plot.roofline(llama, "decode", B=1, T=2048),
        plot.breakdown(llama, "B", [1, 2], T=2048),
        plot.pareto([llama], [1, 2], T=2048),
    ):
        assert warnings_of(figure) == ""


def test_survey_figures_name_their_accounting():
    for name in ("survey-fig5", "survey-fig7", "survey-fig9", "survey-fig19", "survey-fig20"):
        shown = " ".join(texts(plot.survey_figure(name)))
        assert "accounting survey" in shown
        assert "fidelity ideal" in shown


# --- choices --------------------------------------------------------------------------


PIPELINES = ("", "quantize{preset=w4a16}", "quantize{preset=w8a8},prune{storage=2:4}")


@pytest.fixture(scope="module")
def compressed():
    return {p or "no passes": cg.compile("llama-2-7b", "rtx-4090", p) for p in PIPELINES}


def test_a_map_of_choices_has_each_winner_at_its_place(compressed):
    figure = plot.choice_map(compressed, "B", "T", (1, 1024), (128, 4096))
    shown = texts(figure)
    assert {"A  no passes: nowhere the best", f"B  {PIPELINES[1]}", f"C  {PIPELINES[2]}"} < {*shown}
    assert "none fits in memory" in shown
    (axes,) = figure.axes
    places = {t.get_text(): t.get_position() for t in axes.texts}
    for name, compiled in zip("BC", list(compressed.values())[1:], strict=True):
        batch, context = (int(v) for v in places[name])
        times = [
            c.tpot.evaluate(B=batch, T=context)
            for c in compressed.values()
            if c.memory.evaluate(B=batch, S=context, N=1) <= 24e9 or c is compiled
        ]
        assert compiled.tpot.evaluate(B=batch, T=context) == min(times)


def test_a_map_of_choices_takes_several_and_symbols_that_they_have(compressed):
    one = {"no passes": compressed["no passes"]}
    with pytest.raises(InputError, match="2 to 7 pipelines"):
        plot.choice_map(one, "B", "T", (1, 64), (128, 1024))
    with pytest.raises(InputError, match="does not depend on 'T'"):
        plot.choice_map(compressed, "B", "T", (1, 64), (128, 1024), metric="ttft")
    with pytest.raises(InputError, match="two symbols"):
        plot.choice_map(compressed, "B", "B", (1, 64), (128, 1024))


def test_sizes_join_what_nothing_beats(compressed):
    pipelines = ("", "shrink{ffn=1/2}", "shrink{heads=1/2}", "quantize{preset=w4a16}")
    made = [cg.compile("llama-2-7b", "a100-80g", p) for p in pipelines]
    figure = plot.sizes(made, B=16, T=4096)
    (front,) = gids(figure, "front")
    # Quantised it has all parameters and is faster than whole; heads carry caches, widths do not.
    times = [c.tpot.evaluate(B=16, T=4096) for c in made]
    kept = {times[3], times[2]} if times[2] < times[3] else {times[3]}
    assert set(front.get_ydata()) == {t for t in kept if t <= times[3]}
    assert "100%" in texts(figure)


def test_the_command_draws_choices_and_sizes(tmp_path, capsys):
    from costgraph.cli import main

    common = ["llama-2-7b", "--on", "a100-80g", "--passes", "", "--passes", "shrink{ffn=1/2}"]
    for words in (["map", *common, "--over", "B,T", "--to", "64,2048"],
                  ["sizes", *common, "--batch", "1", "--context", "512"]):  # fmt: skip
        target = tmp_path / f"{words[0]}.svg"
        assert main(["plot", *words, "-o", str(target)]) == 0
        assert target.stat().st_size > 5000
    capsys.readouterr()
    two = ["plot", "map", *common, "--on", "h100", "--over", "B,T", "-o", str(tmp_path / "x.svg")]
    with pytest.raises(SystemExit):
        main(two)
    assert "one --on" in capsys.readouterr().err


# --- levels of memory ----------------------------------------------------------------


def test_offloaded_models_have_the_roofs_of_levels_and_links(tmp_path):
    plain = cg.compile("gpt2", "a6000+i9-13900k", "fuse")
    away = cg.compile("gpt2", "a6000+i9-13900k", "fuse,offload{weights=host}")
    assert len(gids(plot.roofline(plain, "decode", B=1, T=64), "roof-")) == 1
    figure = plot.roofline(plain, "decode", after=away, B=1, T=64)
    shown = " ".join(texts(figure))
    # Memory, the host's memory, the link, and the processor in it: Figure 18 and its link.
    assert len(gids(figure, "roof-")) == 4
    for text in (
        "ridge 201.6",
        "from ddr",
        "ridge 1728.1",
        "over pcie",
        "inside ddr",
        "ridge 15.4",
    ):
        assert text in shown
    assert "the step, by bytes of ddr" in shown


@pytest.mark.parametrize("width", ["column", "slide"])
def test_long_titles_and_legends_make_figures_higher_not_axes_flat(width):
    compiled = cg.compile("llama-3-70b", "b200", "fuse")
    figure = plot.regime_map(
        compiled, "B", "T", (1, 4096), (128, 131072), width=width, title="A title. " * 20
    )
    (wide, high), _ = WIDTHS[width]
    found = figure.get_size_inches()
    assert found[0] == wide
    assert found[1] >= high
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().height * found[1] >= 0.42 * high
    boxes = [t.get_window_extent() for t in figure.axes[0].get_yticklabels() if t.get_text()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
