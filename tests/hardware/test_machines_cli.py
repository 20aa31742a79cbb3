"""``costgraph hardware``: the list, one device, several side by side, as text and JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from costgraph.cli import main
from costgraph.hardware import device_names, load_hardware, system_names
from costgraph.hardware.schema import KINDS as ALLOWED
from costgraph.showing.export.machines import KINDS


def printed(capsys, *argv):
    assert main(["hardware", *argv]) == 0
    return capsys.readouterr().out


def test_the_list_names_every_device_by_kind(capsys):
    devices, systems = printed(capsys).split("\n\n")
    lines = devices.splitlines()
    assert set(KINDS) == set(ALLOWED)
    assert [line.split()[0] for line in systems.splitlines()[2:]] == system_names()
    rows = [line.split()[:2] for line in lines[2:]]
    assert {name for name, _ in rows} == set(device_names())
    assert rows == sorted(rows, key=lambda r: (KINDS.index(r[1]), r[0]))


def test_the_list_as_json_holds_figures_in_base_units(capsys):
    found = {m["name"]: m for m in json.loads(printed(capsys, "--json"))}
    assert [n for n, m in found.items() if m["kind"] == "system"] == system_names()
    assert {n for n, m in found.items() if m["kind"] != "system"} == set(device_names())
    h100 = found["h100"]
    assert h100["bandwidth"] == 3.35e12
    assert h100["peaks"]["tensor.bf16"] == 989.4e12
    assert h100["links"]["nvlink"] == {
        "bandwidth": 450e9, "latency": 1.144e-06, "devices": 8, "in_network": True,
        "wiring": "switch",
    }  # fmt: skip
    assert h100["price"] == 4.916
    assert found["gh200"]["tiers"]["ddr"]["bandwidth"] == 512e9
    assert found["a100"]["energy"]["byte"]["memory"] == 31.36e-12
    assert found["epyc-9654"]["topology"] == {
        "numa_domains": 4,
        "cores": 96,
        "clock": 2.4e9,
        "remote": None,
        "core_bandwidth": None,
    }


@pytest.mark.parametrize("name", device_names())
def test_one_device_shows_every_figure_with_its_source(capsys, name):
    text = printed(capsys, name)
    machine = load_hardware(name)
    for key, figure in machine.figures.items():
        (line,) = [x for x in text.splitlines() if x.split()[:1] == [key]]
        assert figure.source in line
        assert figure.unit != "fact" or line.split()[1] == "yes"
    ridges = next(x for x in text.splitlines() if x.startswith("ridge points"))
    for dtype in machine.ridges():
        assert f"{dtype} " in ridges
    assert all(alias in text for alias in machine.aliases)
    assert json.loads(printed(capsys, name, "--json"))["figures"].keys() == machine.figures.keys()


def test_devices_side_by_side(capsys):
    text = printed(capsys, "compare", "h100", "MI300X", "hbm-pim")
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert text.splitlines()[0].split() == ["h100", "mi300x", "hbm-pim"]
    assert "989.4 TFLOP/s" in lines["peak tensor.bf16"]
    assert "1.307 PFLOP/s" in lines["peak tensor.bf16"]
    assert lines["peak tensor.bf16"].split()[-1] == "–"
    assert "295.3" in lines["ridge bf16 (FLOP/byte)"]
    assert "4.916 USD/h" in lines["price"]
    assert "1.38" in lines["USD per EFLOP"]
    assert "last-level cache" in lines
    assert not any("None" in line or "nan" in line for line in lines)


def test_a_comparison_as_json_has_one_object_a_device(capsys):
    h100, v5e = json.loads(printed(capsys, "compare", "h100", "tpu-v5e", "--json"))
    assert (h100["name"], v5e["name"]) == ("h100", "tpu-v5e")
    assert h100["USD per EFLOP"] == pytest.approx(4.916 / 3600 / 989.4e12 * 1e18)
    assert h100["USD per PB moved"] == pytest.approx(4.916 / 3600 / 3.35e12 * 1e15)
    assert h100["FLOP/J at peak"] == pytest.approx(989.4e12 / 700)
    assert v5e["power"] is None
    assert v5e["FLOP/J at peak"] is None


def test_every_pair_of_devices_compares(capsys):
    assert len(printed(capsys, "compare", *device_names()).splitlines()) > 20


def test_a_tier_that_computes_shows_its_ridge_points(capsys, tmp_path):
    path = tmp_path / "pim.toml"
    path.write_text(
        'name="n"\ntitle="t"\n[sources]\ns="a b c"\n[peaks.vector]\n'
        'fp32={value="1 TFLOP/s",source="s"}\n[memory]\nbandwidth={value="1 GB/s",source="s"}\n'
        '[tiers.pim]\nbandwidth={value="1 TB/s",source="s"}\n[tiers.pim.peaks.vector]\n'
        'fp16={value="2 TFLOP/s",source="s"}\n'
    )
    assert "inside pim: fp16 2" in printed(capsys, str(path))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["compare"], "two devices"),
        (["compare", "h100"], "two devices"),
        (["compare", "h100", "h1000"], "did you mean"),
        (["h100", "b200"], "compare A B"),
        (["zzzzzz"], "unknown hardware"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(capsys, argv, words):
    with pytest.raises(SystemExit) as caught:
        main(["hardware", *argv])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("metric", ["energy", "energy_per_token", "cost_per_token"])
@pytest.mark.parametrize("form", ["text", "latex", "json"])
def test_energy_and_cost_are_metrics_of_the_formula_command(capsys, metric, form):
    argv = ["formula", "gpt2", "--on", "h100", "--metric", metric, "--format", form]
    assert main(argv) == 0
    out = capsys.readouterr().out
    unit = {"energy": "J", "energy_per_token": "J/token", "cost_per_token": "USD/token"}[metric]
    if form == "json":
        assert json.loads(out)["unit"] == unit
    elif form == "text":
        assert out.splitlines()[1] == f"{metric}(B, N, S) [{unit}] ="
        assert "assuming" in out


def test_a_machine_without_power_is_one_line_on_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["formula", "gpt2", "--on", "tpu-v5e", "--metric", "energy"])
    assert "states no power" in capsys.readouterr().err


def test_the_list_does_not_load_the_network_of_models():
    code = (
        "import sys\nfrom costgraph.cli import main\nmain(['hardware'])\n"
        "heavy = {'networkx', 'costgraph.models', 'costgraph.passes', 'numpy'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)


@pytest.mark.parametrize(
    ("name", "instruction", "calibration"),
    [("h100", "wgmma", "timings of its own"), ("b300", "tcgen05", "parameters of other devices")],
)
def test_a_device_says_whose_calibration_it_takes(capsys, name, instruction, calibration):
    main(["hardware", name])
    text = capsys.readouterr().out
    assert f"tensor instructions: {instruction}\n" in text
    assert f"calibration: {calibration}\n" in text
    main(["hardware", name, "--json"])
    assert json.loads(capsys.readouterr().out)["instruction"] == instruction
