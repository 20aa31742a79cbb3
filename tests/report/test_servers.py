"""Plans of servers and simulated requests on a report: what the commands say of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from costgraph.asking.serving import Arrivals, Servers, Wanted
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.showing.report import report
from tests.report.conftest import Opened, plain

MODEL, AXE = "llama-3.2-1b", "axe_playwright_python"
WANTED = Wanted(rate=20, ttft=0.5, tpot=0.02, prompt="lognormal:300:0.5", generate=64, devices=2)
TRACE = "timestamp,input,output\n" + "".join(f"{i / 20},{200 + i},{9 + i % 7}\n" for i in range(50))
APART = Servers(replicas=2, decode_replicas=1, decode_passes="", limit=16, link="9 GB/s")


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found is not None
    made: dict[str, Any] = json.loads(found[1])
    return made


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("traces") / "trace.csv"
    made.write_text(TRACE, encoding="utf-8")
    return made


@pytest.fixture
def html(trace: Path) -> str:
    pytest.importorskip("simpy")
    made = report(
        MODEL, ["h100", "l40s"], ["", "fuse"], S=300, N=64, wanted=WANTED,
        arrivals=Arrivals(trace=trace), servers=APART,
    )  # fmt: skip
    return made.html


def told(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    assert main(list(line)) == 0
    return " ".join(capsys.readouterr().out.split())


@plain
@pytest.mark.usefixtures("unloaded")
def test_sections_say_what_the_commands_say(
    html: str, trace: Path, opening: Callable[..., Opened], capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Every text of both sections is one of the command, and they follow the choice."""
    made = data_of(html)
    plan = told(
        capsys, "serve-plan", MODEL, "--on", "h100,l40s", "--passes", "", "--rate", "20", "--ttft",
        "500ms", "--tpot", "20ms", "--prompt", "lognormal:300:0.5", "--generate", "64",
        "--devices", "2", "-o", str(tmp_path / "front.svg"),
    )  # fmt: skip
    assert "</svg>" in (tmp_path / "front.svg").read_text(encoding="utf-8")
    served = told(
        capsys, "serve-simulate", MODEL, "--on", "l40s", "--passes", "fuse", "--trace", str(trace),
        "--replicas", "2", "--decode-replicas", "1", "--decode-passes", "", "--limit", "16",
        "--link", "9 GB/s",
    )  # fmt: skip
    for section, text in ((made["wanted"][0], plan), (made["variants"][1][1]["served"], served)):
        cells = [c for p in section["parts"] for row in (p["head"], *p["rows"]) for c in row]
        notes = [n for p in section["parts"] for n in p["notes"]]
        said = [*section["about"], *section["warnings"], *section["said"]]
        assert len(cells) >= 20
        assert len(section["said"]) > 3
        for piece in (*cells, *notes, *said):
            assert " ".join(piece.split()) in text, piece
    front = made["wanted"][0]["front"]
    assert [p[0] for p in front] == sorted((p[0] for p in front), reverse=True)
    assert [p[1] for p in front] == sorted(p[1] for p in front)

    page = opening(html)
    for name in ("wanted", "served"):
        assert page.page.is_visible(f"#{name}")
        assert "do not follow the controls" in page.page.inner_text(f"#{name}")
    assert page.page.locator("#wanted .chart circle").count() == len(front)
    assert page.page.locator("#served svg.timeline").count() == 1
    before = page.page.inner_text("#served table"), page.page.inner_text("#wanted table")
    page.page.select_option("#device", "1")
    page.settle()
    assert page.page.inner_text("#served table") != before[0]
    assert page.page.inner_text("#wanted table") == before[1]  # on whichever device
    if find_spec(AXE) is not None:
        page.page.evaluate((files(AXE) / "axe.min.js").read_text(encoding="utf-8"))
        for name in ("wanted", "served"):
            found = page.page.evaluate(
                f"axe.run('#{name}', {{resultTypes: ['violations']}}).then(r => "
                "r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 90))]))"
            )
            assert found == []
    for width in (800, 390):
        page.page.set_viewport_size({"width": width, "height": 900})
        page.settle()
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    page.clean()


@plain
@pytest.mark.usefixtures("unloaded")
def test_what_has_no_servers_says_why_beside_what_has() -> None:
    """A pipeline that refuses does not take the others with it; one alone is an error."""
    pytest.importorskip("simpy")
    split, asked = "parallel{tp=2}", Arrivals(closed=2, requests=4)
    made = data_of(report(MODEL, "2xh100", ["", split], S=64, N=8, arrivals=asked).html)[
        "variants"
    ][0]
    assert [bool(v["served"]["why"]) for v in made] == [False, False]
    with pytest.raises(InputError, match="one device"):
        report(MODEL, "2xh100", "", wanted=WANTED)
    with pytest.raises(InputError, match="is the answer, no pass"):
        report(MODEL, "h100", ["fuse,parallel{tp=1}"], wanted=WANTED)
    far = Wanted(rate=20, ttft=0.5, tpot=1e-6, devices=1)
    with pytest.raises(InputError, match="no plan keeps the limits"):
        report(MODEL, "h100", wanted=far)
    with pytest.raises(InputError, match="arrivals are needed"):
        report(MODEL, "h100", servers=Servers())


LINE = ("report", MODEL, "--on", "h100", "-o", "never.html")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--ttft 500ms", "--ttft needs --tpot"),
        ("--ttft 500ms --tpot 20ms", "--ttft needs --rate"),
        ("--rate 3 --devices 4", "--devices needs --ttft"),
        ("--no-pools", "--no-pools needs --ttft"),
        ("--replicas 2", "one of --rate, --trace and --closed"),
        ("--rate 3 --decode-on h100", "--decode-on needs --decode-replicas"),
        ("--trace t.csv --seed 3", "--seed: a trace says that itself"),
        ("--closed 3 --seed 3", "--seed: a closed loop of fixed lengths draws nothing"),
        ("--prompt uniform:90:0.5", "one of --rate, --trace and --closed"),
        ("--trace t.csv --prompt uniform:90:0.5", "--prompt: a trace says that itself"),
        ("--rate 3 --requests 20 --simulate 30", "--requests says how many"),
        ("--rate 3 --requests 20 --policy static --chunk 9", "--chunk: the policy static has none"),
        ("--policy static", "no closed form for the policy 'static'"),
        ("--trace t.csv --closed 3", "not allowed with argument"),
    ],
)
def test_options_without_effect_are_refused(
    given: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*LINE, *given.split()])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1 or "usage" in err
    assert not list(tmp_path.iterdir())
