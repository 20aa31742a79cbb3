"""Sweeps equal scalar evaluation at every point, and say what they hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

import costgraph as cg
from costgraph.errors import InputError

xr = pytest.importorskip("xarray")

#: Without a table of positions: contexts have no end.
MODEL = "pythia-160m"
METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes")
GRID = {"B": [1, 3, 40], "T": [7, 2048], "S": [64, 5], "N": [1, 2, 90]}


def scalar(compiled, metric, point):
    formula = getattr(compiled, metric)
    return formula.evaluate(**{s.name: point[s.name] for s in formula.symbols})


@pytest.fixture(scope="module")
def swept():
    return cg.sweep(MODEL, ["a6000", "h100"], ["", "fuse", "early-exit"], **GRID, chunks=5)


@pytest.mark.parametrize("metric", METRICS)
def test_every_point_is_the_scalar_value(swept, metric):
    stacked = swept[metric].stack(point=swept[metric].dims)
    compiled = {
        (h, p): cg.compile(MODEL, h, "" if p == "none" else p)
        for h in ("a6000", "h100")
        for p in ("none", "fuse", "early-exit")
    }
    for entry in stacked:
        point = {d: entry[d].item() for d in swept[metric].dims}
        expected = scalar(compiled[point["hardware"], point["passes"]], metric, point)
        assert float(entry) == pytest.approx(expected, rel=1e-12)


def test_a_metric_has_the_dimensions_it_depends_on(swept):
    assert swept.ttft.dims == ("hardware", "passes", "B", "S")
    assert swept.tpot.dims == ("hardware", "passes", "B", "T")
    for metric in ("latency", "throughput", "memory", "flops", "bytes"):
        assert set(swept[metric].dims) == {"hardware", "passes", "B", "S", "N"}


def test_coordinates_and_units(swept):
    assert list(swept.passes.values) == ["none", "fuse", "early-exit"]
    assert list(swept.B.values) == [1, 3, 40]
    assert list(swept.S.values) == [64, 5]  # the caller's order
    assert swept.model.item() == MODEL
    assert swept.B.attrs == {
        "long_name": "batch: sequences processed together",
        "units": "sequence",
    }
    assert {m: swept[m].attrs["units"] for m in METRICS} == {
        "ttft": "s", "tpot": "s", "latency": "s", "throughput": "token/s",
        "memory": "byte", "flops": "FLOP", "bytes": "byte",
    }  # fmt: skip
    assert "tpot(B, T) [s] =" in swept.tpot.attrs["formula"]
    assert "exit independently" in swept.tpot.attrs["assumptions"]
    assert swept.attrs["accounting"] == "exact"


def test_scalars_make_no_dimension():
    found = cg.sweep(MODEL, "h100", "fuse", metrics=["tpot"], B=2, T=100)
    assert found.tpot.dims == ()
    assert found.T.item() == 100
    assert found.tpot.item() == pytest.approx(
        cg.compile(MODEL, "h100", "fuse").tpot.evaluate(B=2, T=100), rel=1e-12
    )
    listed = cg.sweep(MODEL, ["h100"], ["fuse"], metrics="tpot", B=[2], T=100)
    assert listed.tpot.dims == ("hardware", "passes", "B")


def test_several_models_and_accountings():
    found = cg.sweep(
        [MODEL, "opt-125m"], "a6000", metrics=["ttft"], accounting="survey", B=1, S=[8]
    )
    assert found.ttft.dims == ("model", "S")
    expected = cg.compile("opt-125m", "a6000", accounting="survey").ttft.evaluate(B=1, S=8)
    assert found.ttft.sel(model="opt-125m", S=8).item() == pytest.approx(expected, rel=1e-12)


def test_symbols_of_passes_are_dimensions():
    text = "speculative{draft=gpt2,gamma=3,alpha=a}"
    found = cg.sweep("gpt2-xl", "h100", ["", text], metrics=["tpot"], B=1, T=64, a=[0.25, 0.5])
    assert found.tpot.dims == ("passes", "a")
    plain = found.tpot.sel(passes="none")
    assert plain[0] == plain[1]
    expected = cg.compile("gpt2-xl", "h100", text).tpot.evaluate(B=1, T=64, a=0.5)
    assert found.tpot.sel(passes=text, a=0.5).item() == pytest.approx(expected, rel=1e-12)


def test_metrics_default_to_what_the_symbols_allow():
    assert set(cg.sweep(MODEL, "h100", B=1, T=[3, 4]).data_vars) == {"tpot"}
    assert set(cg.sweep(MODEL, "h100", B=1, S=8).data_vars) == {"ttft"}


def test_fits_is_memory_within_capacity():
    found = cg.sweep(
        "llama-2-7b", ["a6000", "v100", "rtx-4090"], metrics=["memory"], B=[1, 64, 640], S=128, N=8
    )
    capacity = xr.DataArray([48e9, 32e9, 24e9], {"hardware": found.hardware})
    xr.testing.assert_equal(found.fits, (found.memory <= capacity).transpose(*found.fits.dims))
    assert found.fits.dtype == bool
    assert found.fits.values.any()
    assert not found.fits.values.all()


def test_a_refused_combination_is_named_or_empty():
    passes = ["", "page-kv,page-kv"]
    with pytest.raises(InputError, match=r"160m on h100, passes page-kv,page-kv: .*paged already"):
        cg.sweep(MODEL, "h100", passes, metrics=["memory", "tpot"], B=[1, 2], T=9, S=1, N=1)
    found = cg.sweep(
        MODEL,
        "h100",
        passes,
        metrics=["memory", "tpot"],
        B=[1, 2],
        T=9,
        S=1,
        N=1,
        errors="nan",
    )
    assert np.isnan(found.tpot.sel(passes="page-kv,page-kv")).all()
    assert not np.isnan(found.tpot.sel(passes="none")).any()
    assert not found.fits.sel(passes="page-kv,page-kv").any()
    messages = json.loads(found.attrs["errors"])
    assert any("paged already" in m for m in messages.values())


def test_points_outside_a_pass_stand_empty_beside_others():
    passes = ["parallel{pp=4,micro=4}", "parallel{tp=4}", "parallel{dp=2,tp=2}"]
    found = cg.sweep("llama-3-8b", "4xh100", passes, metrics=["tpot"], B=[1, 2, 4, 8], T=90)
    assert np.isnan(found.tpot.values).tolist() == [
        [True, True, False, False], [False] * 4, [True, False, False, False],
    ]  # fmt: skip
    messages = json.loads(found.attrs["errors"])
    assert len(messages) == 2
    assert all("needs a sequence" in m for m in messages.values())
    with pytest.raises(InputError, match=r"B/4 = 0\.\d+ is below 1"):
        cg.sweep("llama-3-8b", "4xh100", passes[0], metrics=["tpot"], B=[1, 2], T=90)
    model = cg.sweep("gpt2", "h100", B=1, T=[10, 2000], errors="nan")
    assert "exceeds 1024" in model.attrs["errors"]


def test_points_outside_a_model_are_refused_or_empty():
    model = "gpt2"  # positions end at 1024
    with pytest.raises(InputError, match=r"gpt2 on h100.*tpot: T = 2000 exceeds 1024"):
        cg.sweep(model, "h100", B=[1, 2], T=[10, 2000])
    found = cg.sweep(model, "h100", B=[1, 2], T=[10, 1024, 1025, 2000], errors="nan")
    assert np.isnan(found.tpot.values).tolist() == [[False, False, True, True]] * 2
    requests = cg.sweep(model, "h100", metrics=["latency"], B=1, S=[1000], N=[2, 25, 26],
                        errors="nan")  # fmt: skip
    compiled = cg.compile(model, "h100")
    compiled.latency.evaluate(B=1, S=1000, N=25)
    with pytest.raises(InputError):
        compiled.latency.evaluate(B=1, S=1000, N=26)
    assert np.isnan(requests.latency.values).tolist() == [[False, False, True]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metrics": ["tpt"], "B": 1, "T": 1}, "did you mean 'tpot'"),
        ({"metrics": ["tpot"], "B": 1}, "tpot needs values for T"),
        ({"metrics": ["tpot"], "B": 1, "T": 1, "S": 4}, "none of tpot depends on S"),
        ({"B": 1, "T": 1, "alpa": 2}, "depends on alpa"),
        ({"B": 1}, "ttft needs B, S"),
        ({"B": [], "T": 1}, "no values"),
        ({"B": [1, 1], "T": 1}, "given twice"),
        ({"B": [0], "T": 1}, "above 0"),
        ({"B": [1.5], "T": 1}, "whole"),
        ({"B": [float("nan")], "T": 1}, "above 0"),
        ({"B": "1:3", "T": 1}, "not the text"),
        ({"B": [[1]], "T": 1}, "list of them"),
        ({"B": [[1], [2, 3]], "T": 1}, "list of them"),
        ({"B": {1, 2}, "T": 1}, "list of them"),
        ({"B": [True], "T": 1}, "list of them"),
        ({"B": 1, "T": 1, "tpot": 3}, "a result, not a symbol"),
        ({"B": 1, "T": 1, "metrics": []}, "no metrics"),
        ({"B": 1, "T": 1, "metrics": ["tpot", "tpot"]}, "given twice"),
        ({"B": 1, "T": 1, "errors": "ignore"}, "'raise' or 'nan'"),
        ({"B": 1, "T": 1, "chunks": 0}, "whole number from 1"),
        ({"B": 1, "T": 1, "chunks": {"C": 1}}, "no swept symbol 'C'"),
        ({"B": 1, "T": 1, "accounting": "exakt"}, "did you mean 'exact'"),
        ({"B": 1, "T": 1, "passes": ["fuse", "fuse"]}, "given twice"),
        ({"B": 1, "T": 1, "passes": ["fuze"]}, "did you mean 'fuse'"),
        ({"B": 1, "T": 1, "passes": []}, "no passes"),
        ({"B": 1, "T": 1, "store": "x.hdf"}, "suffix"),
        ({"B": 1, "T": 1, "store": "x.csv"}, "write_sweep"),
        ({"B": range(1, 10**6), "T": range(1, 10**5)}, "only written to a store"),
    ],
)
def test_bad_calls_are_refused_in_one_line(arguments, words):
    with pytest.raises(InputError) as error:
        cg.sweep(MODEL, "h100", **arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_chunks_change_nothing():
    whole = cg.sweep(MODEL, "h100", B=range(1, 8), T=range(1, 12))
    for chunks in (1, 4, 7, 11, 50, {"B": 3}, {"T": 4, "B": 2}):
        xr.testing.assert_identical(
            whole, cg.sweep(MODEL, "h100", B=range(1, 8), T=range(1, 12), chunks=chunks)
        )


def test_progress_goes_to_standard_error_when_asked(capsys):
    cg.sweep(MODEL, "h100", B=range(1, 8), T=1, chunks=2, progress=True)
    found = capsys.readouterr()
    assert found.out == ""
    assert "4/4" in found.err
    cg.sweep(MODEL, "h100", B=range(1, 8), T=1, chunks=2)
    assert capsys.readouterr().err == ""
    seen = []
    cg.sweep(MODEL, "h100", B=range(1, 8), T=1, chunks=2, progress=lambda *x: seen.append(x))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_missing_library_names_the_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match=r"pip install 'costgraph\[sweep\]'"):
        cg.sweep(MODEL, "h100", B=1, T=1)
