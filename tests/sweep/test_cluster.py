"""Blocks on the workers of a cluster."""

from __future__ import annotations

import warnings

import pytest

import costgraph as cg
from costgraph.errors import InputError

xr = pytest.importorskip("xarray")

CALL = ("gpt2", ["a6000", "h100"], ["", "quantize{weights=int4}"])
GRID = {"B": range(1, 9), "T": [5, 700], "S": [12], "N": [1, 9]}


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ports, time-outs: about this machine, not about sweeps
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        )
        with cluster, distributed.Client(cluster) as made:
            yield made


@pytest.mark.slow
def test_a_cluster_gives_the_same_sweep(client, tmp_path):
    expected = cg.sweep(*CALL, **GRID)
    xr.testing.assert_identical(cg.sweep(*CALL, **GRID, chunks=3, client=client), expected)
    stored = cg.sweep(*CALL, **GRID, chunks=3, client=client, store=tmp_path / "o.zarr")
    xr.testing.assert_identical(stored.compute(), expected)


def test_machines_pickle_and_stay_read_only():
    import pickle

    from costgraph.hardware import device_names, load_hardware

    for name in device_names():
        machine = load_hardware(name)
        copy = pickle.loads(pickle.dumps(machine))
        assert copy == machine
        assert copy.under("survey") == machine.under("survey")
        with pytest.raises(TypeError):
            copy.peaks["x"] = 1


@pytest.mark.slow
def test_work_runs_in_other_processes(client):
    import os

    pids = set(client.run(os.getpid).values())
    assert len(pids) == 2
    assert os.getpid() not in pids
    from costgraph.asking.sweeping.plan import make_plan
    from costgraph.asking.sweeping.run import _on_cluster

    plan = make_plan(
        "gpt2", "h100", "", metrics=["tpot"], accounting="exact", chunks=4, errors="raise",
        options={}, symbols={"B": range(1, 33), "T": [5]},
    )  # fmt: skip
    tasks = list(plan.tasks())
    assert len(tasks) == 8
    assert {t.number for t, _ in _on_cluster(plan, tasks, client)} == set(range(8))


@pytest.mark.slow
def test_an_interrupted_sweep_on_a_cluster_continues(client, tmp_path):
    class Interrupted(Exception):
        pass

    def stop(done, total):
        if done == 4:
            raise Interrupted

    path = tmp_path / "o.zarr"
    call = {"chunks": 1, "metrics": ["tpot"], "B": range(1, 41), "T": 5, "store": path}
    with pytest.raises(Interrupted):
        cg.sweep("gpt2", "h100", **call, client=client, progress=stop)
    assert not path.exists()
    seen = []
    found = cg.sweep(
        "gpt2", "h100", **call, client=client, progress=lambda done, total: seen.append(done)
    )
    assert seen == list(range(5, 41))
    xr.testing.assert_identical(
        found.compute(), cg.sweep("gpt2", "h100", metrics=["tpot"], B=range(1, 41), T=5)
    )


@pytest.mark.slow
def test_errors_of_inputs_come_before_any_work(client):
    with pytest.raises(InputError, match="did you mean 'tpot'"):
        cg.sweep("gpt2", "h100", metrics=["tpt"], B=1, T=1, client=client)
