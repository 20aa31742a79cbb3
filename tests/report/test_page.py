"""Reports without a browser: well-formed, closed, escaped, complete."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.showing.draw.render import can_render
from costgraph.showing.report import report
from costgraph.showing.report.page import json_text

PIPELINES = ("", "fuse", "fuse,quantize{weights=int4,bits=b}")
VOID = {"meta", "link", "input", "br", "hr", "img"}
HOSTILE = "<script>alert(1)</script>\"'</script><!--<img src=x onerror=alert(1)>&amp;"


class Tags(HTMLParser):
    """Checks that tags nest, and keeps what matters of them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], (tag, self.open[-4:], self.getpos())
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def data_of(page: str) -> dict[str, Any]:
    text = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    found: dict[str, Any] = json.loads(text[1])
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return report(
        "gpt2", ["a6000", "h100"], ["", "fuse", "fuse,quantize{weights=int4,bits=b}"]
    ).html


def test_tags_nest_and_identifiers_are_unique(page: str) -> None:
    tags = parsed(page)
    assert len(tags.ids) == len(set(tags.ids))
    kinds = [tag for tag, _ in tags.seen]
    for needed in ("template", "noscript", "main", "form", "aside", "math"):
        assert needed in kinds


def test_every_control_in_the_page_has_a_label(page: str) -> None:
    tags = parsed(page)
    labelled = {a["for"] for tag, a in tags.seen if tag == "label"}
    controls = {a["id"] for tag, a in tags.seen if tag in ("select", "input")}
    assert controls
    assert controls <= labelled


def test_the_page_names_nothing_outside_itself(page: str) -> None:
    # Names of languages, never fetched.
    code = re.sub(r"http://www\.w3\.org/(2000/svg|1998/Math/MathML)", "", page)
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", code)
    assert "@import" not in page
    assert "url(" not in page
    for tag, attributes in parsed(page).seen:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)


def test_the_policy_allows_this_script_alone(page: str) -> None:
    tags = parsed(page)
    policy = next(a["content"] for t, a in tags.seen if a.get("http-equiv")) or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    own = tags.scripts[-1]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert "eval(" not in own
    assert "innerHTML" not in own
    assert "fetch(" not in own


def test_json_cannot_leave_its_script() -> None:
    text = json_text({"a": "</script><!-- & \u2028 \ud800"})
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text)["a"] == "</script><!-- & \u2028 \ud800"
    with pytest.raises(ValueError, match="JSON"):
        json_text({"a": float("inf")})


def test_hostile_names_are_only_text() -> None:
    program = replace(cg.load_model("gpt2"), name=HOSTILE, assumptions=(HOSTILE,))
    made = report(program, "a6000").html
    tags = parsed(made)
    assert len(tags.scripts) == 2
    assert not [t for t, a in tags.seen if t == "img" or "onerror" in a]
    assert "alert(1)" not in tags.scripts[-1]
    assert data_of(made)["setting"]["model"] == HOSTILE
    assert f"<title>{HOSTILE}" not in made


def test_the_data_are_complete(page: str) -> None:
    data = data_of(page)
    assert [d["name"] for d in data["devices"]] == ["a6000", "h100"]
    assert data["pipelines"][0] == "unmodified"
    assert len(data["variants"]) == 2
    one = data["variants"][0][0]
    assert [name for name, _ in one["metrics"]][:5] == [
        "ttft", "tpot", "latency", "throughput", "memory",
    ]  # fmt: skip
    compiled = cg.compile("gpt2", "a6000")
    for phase in one["phases"]:
        names = [data["nodes"][node][0] for node, _ in phase["rows"]]
        assert names == [row.name for row in compiled.rows[phase["name"]]]
    assert one["parameters"] == int(compiled.parameters)
    assert all(set(f) for f in one["formulas"].values())
    controls = {c["name"]: c for c in data["controls"]}
    assert controls["b"]["value"] == 4.0
    assert "bits" in controls["b"]["meaning"]
    assert list(controls)[:4] == ["B", "S", "N", "T"]


def test_equal_graphs_and_functions_are_written_once(page: str) -> None:
    data = data_of(page)
    one, other = data["variants"][0][0]["phases"], data["variants"][1][0]["phases"]
    assert one[0]["graph"] == one[1]["graph"] == other[0]["graph"]
    assert one[0]["function"]["code"] == other[0]["function"]["code"]


@pytest.mark.skipif(not can_render("svg"), reason="nothing here draws SVG")
def test_the_graph_has_a_button_for_every_operation(page: str) -> None:
    data = data_of(page)
    nodes = re.findall(r'<g class="node op" id="g0-n\d+" data-vertex="(\d+)"', page)
    assert {str(v) for v in data["graphs"][0]["rows"]} <= set(nodes)


def test_size(page: str) -> None:
    assert len(page.encode()) < 1_500_000


def test_what_a_model_lacks_is_left_out() -> None:
    data = data_of(report("bert-base", "a6000").html)
    names = [name for name, _ in data["variants"][0][0]["metrics"]]
    assert "tpot" not in names
    assert "latency" in names


def test_without_a_drawing_program_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(source: str, kind: str) -> bytes:
        raise InputError("no dot")

    monkeypatch.setattr("costgraph.showing.draw.render.render", missing)
    data = data_of(report("gpt2", "a6000").html)
    assert data["graphs"][0]["svg"] is None


def test_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "r.html"
    code = main(
        ["report", "gpt2", "--on", "a6000,h100", "--passes", "", "--passes", "fuse",
         "--batch", "4", "-o", str(target)]
    )  # fmt: skip
    assert code == 0
    assert "wrote" in capsys.readouterr().out
    data = data_of(target.read_text(encoding="utf-8"))
    assert data["controls"][0]["value"] == 4
    assert data["pipelines"] == ["unmodified", "fuse"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "h101", "-o", "r.html"], "h101"),
        (["--on", "h100,", "-o", "r.html"], "comma"),
        (["--on", "h100", "-o", "r.pdf"], ".html"),
        (["--on", "h100", "--passes", "fusion", "-o", "r.html"], "fusion"),
        (["--on", "h100", "--accounting", "none", "-o", "r.html"], "none"),
        (["--on", "h100", "--fidelity", "calibratd", "-o", "r.html"], "'calibrated'"),
        (["--on", "h100", "--fidelity", "calibrated@vlm", "-o", "r.html"], "'vllm'"),
        (["--on", "h100", "--fidelity", HOSTILE, "-o", "r.html"], "unknown fidelity"),
    ],
)
def test_bad_input_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["report", "gpt2", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fidelity", ["calibrated", "low", "median", "high", "calibrated@vllm"])
def test_command_takes_every_fidelity(fidelity: str, tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    arguments = ["report", "llama-3-8b", "--on", "h100", "--passes", "fuse"]
    assert main([*arguments, "--fidelity", fidelity, "-o", str(target)]) == 0
    data = data_of(target.read_text(encoding="utf-8"))
    assert data["setting"]["fidelity"] == fidelity
    decode = next(p for p in data["variants"][0][0]["phases"] if p["name"] == "decode")
    terms = [term for cost in decode["costs"] for term in cost[6]]
    assert any(norm is not None and len(arms) == 2 for _, norm, arms in terms)
    assert any(arms[0][0] == "latency" for _, _, arms in terms)


def test_an_ideal_page_holds_no_terms(page: str) -> None:
    data = data_of(page)
    assert data["setting"]["fidelity"] == "ideal"
    costs = [c for v in data["variants"][0] for p in v["phases"] for c in p["costs"]]
    assert {len(c) for c in costs} == {6}


def test_too_much_for_one_page() -> None:
    with pytest.raises(InputError, match="variants"):
        report("gpt2", ["a6000"] * 5, [f"page-kv{{block={n}}}" for n in range(1, 6)])
    with pytest.raises(InputError, match="B must be"):
        report("gpt2", "a6000", B=0)
    with pytest.raises(InputError, match="at least one"):
        report("gpt2", [])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("G", "gpt2 has no symbol 'G'; known: B, N, S, T"),
        ("BW", "BW is a figure of the device"),
        ("price", "price is a figure of the device"),
    ],
)
def test_a_name_that_is_no_symbol_is_refused_before_the_long_work(
    monkeypatch, name: str, said: str
) -> None:
    def late(*_: object) -> None:
        raise AssertionError("variants were written first")

    monkeypatch.setattr("costgraph.showing.report.page.bundle", late)
    with pytest.raises(InputError, match=said):
        report("gpt2", "a6000", **{name: 3})
