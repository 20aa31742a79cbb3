"""``costgraph hardware`` on systems: the list, one, several side by side, as text and JSON."""

from __future__ import annotations

import json

import pytest

from costgraph.cli import main
from costgraph.hardware import load_system, system_names


def printed(capsys, *argv):
    assert main(["hardware", *argv]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("spec", [*system_names(), "8xh100", "2x8xh200", "2xrtx-4090+i9-13900k"])
def test_one_system_shows_totals_links_sources_and_notes(capsys, spec):
    s = load_system(spec)
    text = printed(capsys, spec)
    lines = text.splitlines()
    assert lines[0].startswith(f"{s.name}: {s.title}")
    assert s.devices == 1 or f"{s.devices} devices" in lines[2]
    links = {k: f for k, f in s.device.figures.items() if k.startswith("links.")}
    for key, figure in {**links, **s.figures}.items():
        (line,) = [x for x in lines if x.split()[:1] == [key]]
        assert figure.source in line
    for name, link in s.device.links.items():
        row = next(x for x in lines if x.split()[:1] == [name])
        assert ("not stated" in row) == (link.latency is None)
        assert ("reduces" in row) == link.in_network
    for note in s.notes:
        assert f"note: {note}" in lines
    assert ("host of a node" in text) == (s.host is not None)
    assert ("storage of a node" in text) == (s.storage is not None)
    assert "None" not in text


def test_totals_are_those_of_all_devices(capsys):
    text = printed(capsys, "2x8xh200")
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "141 GB" in rows["memory"]
    assert "2.256 TB" in rows["memory"]
    assert "15.83 PFLOP/s" in rows["peak tensor.bf16"]
    assert "11200 W" in rows["power"]
    found = json.loads(printed(capsys, "2x8xh200", "--json"))
    assert found["totals"]["capacity"] == 16 * 141 * 10**9
    assert found["totals"]["peaks"]["tensor.bf16"] == pytest.approx(16 * 989.4e12)
    assert found["totals"]["price"] == pytest.approx(16 * 5.408)
    assert (found["devices"], found["nodes"], found["kind"]) == (16, 2, "system")
    assert found["device"]["name"] == "h200"
    assert found["device"]["links"]["network"]["bandwidth"] == 50e9
    assert found["figures"]["links.nvlink.in_network"]["value"] is True
    assert found["notes"] == list(load_system("2x8xh200").notes)


def test_a_system_as_json_has_host_storage_and_shape(capsys):
    found = {s["name"]: s for s in json.loads(printed(capsys, "--json")) if s["kind"] == "system"}
    assert list(found) == system_names()
    assert found["tpu-v5e-4x4"]["shape"] == [4, 4]
    assert found["tpu-v5e-4x4"]["host"] is None
    host = found["dgx-a100"]["host"]
    assert (host["name"], host["count"], host["bandwidth"]) == ("epyc-7742", 2, 204.8e9)
    assert found["mac-studio-m2-ultra"]["storage"] == {"bandwidth": 7.4e9, "capacity": 8 * 10**12}


def test_devices_and_systems_side_by_side(capsys):
    text = printed(capsys, "compare", "h100", "dgx-h100", "2x8xh200", "groq-576")
    rows = {line.split("  ")[0]: line.split("  ") for line in text.splitlines()}
    assert text.splitlines()[0].split() == ["h100", "dgx-h100", "2x8xh200", "groq-576"]

    def cells(label):
        return [c.strip() for c in rows[label][1:] if c.strip()]

    assert cells("devices") == ["1", "8", "16", "576"]
    assert cells("capacity") == ["80 GB", "80 GB", "141 GB", "230 MB"]
    assert cells("all: capacity") == ["80 GB", "640 GB", "2.256 TB", "132.5 GB"]
    assert cells("between nodes") == ["–", "50 GB/s", "50 GB/s", "56 GB/s"]
    assert cells("all: power") == ["700 W", "5600 W", "11200 W", "–"]
    one, eight = json.loads(printed(capsys, "compare", "h100", "8xh100", "--json"))
    assert (one["name"], eight["name"]) == ("h100", "8xh100")
    assert eight["all: peak bf16"] == 8 * one["all: peak bf16"]


def test_a_comparison_of_devices_alone_says_nothing_of_systems(capsys):
    text = printed(capsys, "compare", "h100", "b200")
    assert "all:" not in text
    assert "nodes" not in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["8xh1000"], "did you mean"),
        (["compare", "h100", "9xh100"], "a node holds 8"),
        (["h100", "8xh100"], "compare A B"),
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
