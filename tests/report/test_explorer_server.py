"""The explorer's server by itself: what it answers, whom, and what it never reads."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from costgraph.errors import InputError
from costgraph.showing.explorer.parts import Asked, part
from tests.report.exploring import CONFIG, HOSTILE, TOKEN, Server

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytestmark = pytest.mark.slow


def test_an_exported_graph_is_dropped(server: Server) -> None:
    pytest.importorskip("onnx")
    data = (Path(__file__).parents[1] / "importers" / "data" / "tiny-encoder.onnx").read_bytes()
    origin = f"http://127.0.0.1:{server.port}"
    status, text = server.ask("/files?name=../../up.onnx", "POST", data, Origin=origin)
    assert (status, json.loads(text)) == (200, {"model": "up"})
    status, text = server.ask("/files?name=bad.onnx", "POST", b"x", Origin=origin)
    assert status == 400
    assert json.loads(text)["error"].startswith("'bad.onnx'")  # not what it was called for reading
    status, text = server.ask("/part.js?kind=numbers&model=up&on=h100&passes=&fidelity=ideal")
    assert status == 200
    assert '"error"' not in text
    assert '"latency"' in text


def test_how_far_plans_are_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from costgraph.showing.explorer.dropped import Dropped
    from costgraph.showing.explorer.server import Parts
    from costgraph.showing.report import plans

    parts, asked, seen = Parts(Dropped()), Asked("plans", "gpt2", "2xh100", "fuse"), []

    def compiling(*given: Any, **how: Any) -> None:
        seen.append(parts.far(asked))
        raise InputError("not now")

    monkeypatch.setattr(plans, "compile", compiling)
    assert '"not now"' in parts.get(asked)
    assert seen == [(i, 4) for i in range(4)]
    assert parts.far(asked) == (0, 0)


def test_other_sites_get_nothing(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    good = server.ask("/catalog.js")
    assert good[0] == 200
    for path in ("/", "/catalog.js", "/part.js?kind=numbers&model=gpt2&on=h100", "/explorer.js"):
        assert server.ask(path, Host="evil.example")[0] == 421  # a name rebound to 127.0.0.1
        assert server.ask(path, Sec_Fetch_Site="cross-site")[0] == 403
        assert server.ask(path, Sec_Fetch_Site="same-site")[0] == 403  # another port
        assert server.ask(path, Cookie="")[0] == 403
        assert server.ask(path, Cookie=f"costgraph-{server.port}=wrong")[0] == 403
    post = ("/files?name=config.json", "POST", b"{}")
    assert server.ask(*post)[0] == 403
    assert server.ask(*post, Origin="http://evil.example")[0] == 403
    assert server.ask(*post, Origin="null")[0] == 403
    assert server.ask(*post, Origin=own)[0] == 400  # read, and no configuration
    large = server.ask("/files?name=config.json", "POST", b" " * (4 * 2**20 + 1), Origin=own)
    assert large[0] == 400
    assert "larger than 4 MiB" in large[1]
    assert server.ask("/pipeline?text=" + "x" * 20_000)[0] == 200
    assert server.ask("/part.js?kind=numbers&model=" + "x" * 20_000)[0] == 414
    for path in ("/../pyproject.toml", "/%2e%2e/pyproject.toml", "/assets/../server.py", "/x"):
        assert server.ask(path)[0] == 404
    assert server.ask("/?token=" + TOKEN, Cookie="")[0] == 200


@pytest.mark.parametrize(
    ("model", "on", "passes"),
    [
        ("{file}", "h100", ""),
        ("gpt2", "{file}", ""),
        ("gpt2", "8x{file}", ""),
        ("gpt2", "h100+{file}", ""),
        ("llama-3-8b", "h100", "speculative{{draft={file}}}"),
        ("gpt2", "h100", "fuse," * 5000),
        ("gpt2", "\0", HOSTILE),
    ],
)
def test_no_text_of_a_request_reaches_the_disk(
    model: str, on: str, passes: str, tmp_path: Path
) -> None:
    for name, text in (
        ("model.json", json.dumps(CONFIG)),
        ("device.toml", (Path(cg.hardware.__file__).parent / "devices" / "h100.toml").read_text()),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    file = tmp_path / ("device.toml" if "{file}" in on else "model.json")
    given = [t.format(file=file) if "{file}" in t else t for t in (model, on, passes)]
    text = part(Asked("numbers", *given))
    value = json.loads(text[text.index(", {") + 2 : text.rindex(", [")])
    assert set(value) == {"error"}
    assert "\n" not in value["error"]
    assert "<" not in text.replace("\\u003c", "")


def test_the_command_serves_and_stops(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "costgraph", "serve", "gpt2", "--on", "h100", "--no-browser"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{43})", address)
        assert found is not None
        server = Server(int(found[1]), found[2])
        status, text = server.ask("/catalog.js")
        assert status == 200
        assert '"start":{"model":"gpt2"' in text
        # In the midst of a derivation, too.
        waiting = threading.Thread(
            target=lambda: server.ask(
                "/part.js?kind=formulas&model=gpt2&on=h100&fidelity=ideal&metric=latency"
            )
        )
        waiting.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
        waiting.join(15)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_a_name_means_one_model_as_long_as_the_server_runs():
    """So that what is still derived of a file is never taken for that of another."""
    from costgraph.showing.explorer.dropped import MOST, Dropped

    dropped, data = Dropped(), json.dumps(CONFIG).encode()
    first = dropped.add("config.json", data)
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": {}}).encode()
    with_index = dropped.add("model.safetensors.index.json", index, first)
    assert with_index != first
    assert isinstance(dropped[first], dict)  # as it was
    assert dropped[with_index].name == with_index
    names = [first, with_index, *(dropped.add("config.json", data) for _ in range(MOST + 1))]
    assert len(set(names)) == len(names)  # also of those that had to go
    assert first not in dropped
    assert len(dropped) == MOST
