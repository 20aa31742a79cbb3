"""Random arguments for every command, and the files that they name."""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from costgraph.cli.entry import _build_parser
from costgraph.models.catalog import CONFIGS
from costgraph.passes import PASSES
from tests.fuzz import mutate
from tests.fuzz.harness import Generator
from tests.fuzz.mutate import Dice

DATA = Path(__file__).parents[1] / "importers" / "data"
COUNTED = Path(__file__).parents[1] / "models" / "counted" / "configs"
TIMINGS = Path(__file__).parents[2] / "benchmarks" / "data" / "timings"
#: Small models of every class, so that a case takes a fraction of a second.
MODELS = (
    "gpt2", "opt-125m", "llama-3.2-1b", "gemma-2-2b", "mixtral-8x7b", "deepseek-v2-lite",
    "qwen3-30b-a3b", "mamba-130m", "granite-4.0-h-micro", "rwkv-4-169m", "flan-t5-xl",
    "whisper-large-v3", "bert-base", "vit-base-16", "resnet-50", "dit-xl-2", "llava-1.5-7b",
    "qwen2.5-vl-7b",
)  # fmt: skip
DEVICES = ("a6000", "h100", "h200", "mi300x", "tpu-v6e", "rtx-4090", "i9-13900k")
SYMBOLS = ("B", "T", "S", "N", "K", "G", "q", "BW", "F_bf16", "x", "alpha", "B,T", "B,S", "T,S")
METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes", "energy")


# --- files ---------------------------------------------------------------------


@cache
def _configs() -> tuple[Path, ...]:
    return tuple(sorted((*CONFIGS.glob("*.json"), *COUNTED.glob("*.json"))))


def config_file(rng: Dice, folder: Path) -> str:
    """A real configuration with entries changed, or its text damaged."""
    given = rng.choice(_configs()).read_text(encoding="utf-8")
    path = folder / rng.choice(("config.json", "model.json", "\u202emodel.json", "m'.json"))
    if rng.random() < 0.15:
        path.write_bytes(mutate.data(rng, given.encode()))
    else:
        made = mutate.tree(rng, json.loads(given))
        path.write_text(json.dumps(made), encoding="utf-8")
    return f"./{path.name}"


@cache
def _devices() -> tuple[Path, ...]:
    import costgraph.hardware

    folder = Path(next(iter(costgraph.hardware.__path__)))
    return tuple(sorted((*folder.glob("devices/*.toml"), *folder.glob("calibrations/a100*.toml"))))


def device_file(rng: Dice, folder: Path) -> str:
    """A device's file with lines changed, exchanged or damaged."""
    lines = rng.choice(_devices()).read_text(encoding="utf-8").splitlines()
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            del lines[i]
        elif kind == 1:
            lines[i] = mutate.text(rng, lines[i])
        elif kind == 2:
            lines.insert(i, rng.choice(lines))
        else:  # another number
            head, _, tail = lines[i].partition('"')
            unit = rng.choice(("GB/s", "TFLOP/s", "GB", "W", "", "Gb/s", "x"))
            lines[i] = f'{head}"{rng.choice((mutate.real(rng), *mutate.ODD_NUMBERS))} {unit}{tail}'
    path = folder / "device.toml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return f"./{path.name}"


def onnx_file(rng: Dice, folder: Path) -> str:
    """A damaged file of the tests, or a small graph of random operations."""
    path = folder / "model.onnx"
    if rng.random() < 0.3:
        path.write_bytes(mutate.data(rng, rng.choice(sorted(DATA.glob("*.onnx"))).read_bytes()))
    else:
        path.write_bytes(_random_graph(rng))
    return f"./{path.name}"


_UNARY = ("Relu", "Sigmoid", "Softmax", "Identity", "Flatten", "Transpose", "Erf", "ReduceMean",
          "Squeeze", "Unsqueeze", "Shape", "Size", "Nope", "Dropout", "Cast", "Resize")  # fmt: skip
_BINARY = ("Add", "Mul", "MatMul", "Gemm", "Concat", "Gather", "Slice", "Reshape", "Expand", "Conv",
           "Pow", "Where", "Range", "Pad", "Tile", "Split", "Einsum",
           "LayerNormalization")  # fmt: skip


def _random_graph(rng: Dice) -> bytes:
    """A graph that need not make sense, of operations with random operands and attributes."""
    import onnx
    from onnx import TensorProto, helper

    def size() -> Any:
        return rng.choice((0, 1, 2, 3, 4, 8, 64, 10**6, 10**12, 2**62, "batch", "seq", None))

    def attribute() -> Any:
        return rng.choice((0, 1, -1, 2, 7, 2**62, 0.5, float("nan"), "x", "ij,jk->ik", [0], [1, -1],
                           [2**62, 2], [], [0.5, 2.0]))  # fmt: skip

    def maker(f: Any, *args: Any, **named: Any) -> Any:
        try:
            return f(*args, **named)
        except (ValueError, TypeError):
            return None

    names = ["x", "w", "i"]
    inputs = [
        helper.make_tensor_value_info("x", rng.choice((1, 1, 1, 7, 10, 16)),
                                      [size() for _ in range(rng.randint(0, 4))])
    ]  # fmt: skip
    dims = [rng.choice((1, 2, 3, 4)) for _ in range(rng.randint(0, 4))]
    count = 1
    for d in dims:
        count *= d
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, dims, [0.5] * count),
        helper.make_tensor("i", TensorProto.INT64, [2],
                           [rng.choice((0, 1, -1, 3, 2**62, -(2**63))) for _ in range(2)]),
    ]  # fmt: skip
    nodes = []
    for index in range(rng.randint(1, 6)):
        binary = rng.random() < 0.6
        kind = rng.choice(_BINARY if binary else _UNARY)
        wanted = {
            rng.choice(("axis", "axes", "perm", "to", "equation", "pads", "strides", "group",
                        "kernel_shape", "mode", "keepdims")): attribute()
            for _ in range(rng.choice((0, 0, 1, 2)))
        }  # fmt: skip
        operands = [rng.choice((*names, names[-1], "")) for _ in range(1 + binary)]
        made = maker(helper.make_node, kind, operands, [f"y{index}"], **wanted)
        if made is not None:
            nodes.append(made)
            names.append(f"y{index}")
    outputs = [helper.make_tensor_value_info(names[-1], 1, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opset = helper.make_opsetid("", rng.choice((9, 13, 18)))
    made = helper.make_model(graph, opset_imports=[opset])
    made.ir_version = min(made.ir_version, 10)
    return bytes(onnx.ModelProto.SerializeToString(made))


@cache
def _tables() -> dict[str, str]:
    found = {}
    for path in sorted(TIMINGS.glob("*.csv.gz")):
        text = gzip.decompress(path.read_bytes()).decode()
        found[path.stem] = "\n".join(text.splitlines()[:40])
    return found


def timings_file(rng: Dice, folder: Path) -> str:
    """A table of timings with cells, columns or bytes changed, sometimes compressed."""
    given = rng.choice(list(_tables().values()))
    rows = list(csv.reader(io.StringIO(given)))
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        if row:
            row[rng.randrange(len(row))] = rng.choice(
                (mutate.real(rng), rng.choice(mutate.ODD_NUMBERS), mutate.text(rng, row[0]), "=1+1")
            )
    if rng.random() < 0.2:
        del rows[rng.randint(0, len(rows)) :]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    raw = out.getvalue().encode("utf-8", "surrogatepass")
    name = "t.csv"
    if rng.random() < 0.4:
        name, raw = "t.csv.gz", gzip.compress(raw)
    (folder / name).write_bytes(mutate.data(rng, raw) if rng.random() < 0.3 else raw)
    return f"./{name}"


# --- values ----------------------------------------------------------------------


def pipeline(rng: Dice, deep: bool = True) -> str:
    """Passes with options of any value; sometimes a text that is no pipeline."""
    if rng.random() < 0.25:
        return rng.choice(("", "fuse", "fuse,quantize{preset=w4a16}", "page-kv,fuse"))
    parts = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(list(PASSES))
        options = PASSES[name].options()
        chosen = rng.sample(list(options), min(len(options), rng.choice((0, 1, 1, 2, 3))))
        made = [f"{key}={_option(rng, key, options[key], deep)}" for key in chosen]
        parts.append(f"{name}{{{','.join(made)}}}" if made else name)
    found = ",".join(parts)
    return mutate.text(rng, found) if rng.odd() else found


def _option(rng: Dice, key: str, spec: Any, deep: bool) -> str:
    if rng.odd():
        return rng.choice((mutate.real(rng), mutate.text(rng, "p10"), *mutate.WORDS))
    if key == "draft":
        return rng.choice(("skip", "heads", "gpt2", "opt-125m", "llama-3.2-1b"))
    words = [c for c in spec.choices if deep or c != "optimal"]
    if words and (spec.kind == "word" or rng.random() < 0.2):
        return str(rng.choice(words))
    if spec.kind == "flag":
        return rng.choice(("true", "false"))
    if spec.kind == "probability":
        return rng.choice(("0", "1", "0.5", "7/10", "0.95", "x"))
    if spec.kind == "word":
        lists = {"shares": "p10|p20", "tree": "t2|1", "alphas": "p80|p60", "keep": "lm_head|q:3"}
        return lists.get(key, "none")
    return rng.choice(("x", "1", "2", "3", "4", "8", "16", "100", mutate.whole(rng)))


#: Symbols of a metric.
NEEDS = {"tpot": "BT", "ttft": "BS", **dict.fromkeys(METRICS[2:], "BSN")}


def points(rng: Dice, metric: str = "tpot", without: str = "") -> str:
    """Values of a metric's symbols as ``--at`` takes them."""
    names = [n for n in NEEDS[metric] if n not in without.split(",")]
    if rng.random() < 0.15:
        names.append(rng.choice(("x", "K", "G", "alpha", "T")))
    if rng.odd():
        names = rng.sample(names, rng.randint(0, len(names)))
    made = ",".join(f"{n}={mutate.whole(rng)}" for n in names)
    return mutate.text(rng, made) if rng.odd() else made


def channel(rng: Dice) -> str:
    """How the rate of a link is distributed, as ``--channel`` takes it."""
    figure = {"uniform": "GB/s", "exponential": "GB/s", "lognormal": "GB/s", "rayleigh": "MHz"}
    name = rng.choice(tuple(figure))
    made = f"{name}:{mutate.real(rng)} {figure[name]}"
    if name != "exponential":
        made += f",{mutate.real(rng)}{' GB/s' if name == 'uniform' else rng.choice(('', ' dB'))}"
    return mutate.text(rng, made) if rng.odd() else made


def values(rng: Dice) -> str:
    """Values of a sweep: lists and ranges."""
    kind = rng.randrange(4)
    if rng.odd():
        return mutate.text(rng, rng.choice(("1:100", "1,2,4", "1:1024:x2")))
    if kind == 0:
        return ",".join(dict.fromkeys(mutate.whole(rng) for _ in range(rng.randint(1, 3))))
    if kind == 1:
        return f"{rng.choice('123')}:{mutate.whole(rng)}"
    if kind == 2:
        return f"{rng.choice('123')}:{mutate.whole(rng)}:{mutate.whole(rng)}"
    return f"{rng.choice('123')}:{mutate.whole(rng)}:x{rng.choice('23')}"


def model(rng: Dice, folder: Path) -> str:
    """A name, or a file of any kind."""
    if rng.odd():
        return rng.choice((*mutate.WORDS, mutate.text(rng, "llama-2-7b"), "a" * 5000))
    if rng.random() < 0.12:
        return rng.choice((config_file, onnx_file))(rng, folder)
    return rng.choice(MODELS)


def device(rng: Dice, folder: Path) -> str:
    """A name, or a file."""
    if rng.odd():
        return rng.choice((*mutate.WORDS, mutate.text(rng, "rtx-4090")))
    return device_file(rng, folder) if rng.random() < 0.1 else rng.choice(DEVICES)


def output(rng: Dice, suffixes: tuple[str, ...]) -> str:
    """A file to write, at a good place or at none."""
    if rng.odd():
        names = (
            "o ut",
            "no/out",
            "a" * 256,
            "a" * 246,
            "/dev/full",
            "/dev/null",
            "\udcff",
            "é",
            "",
        )
        return rng.choice(names) + rng.choice((*suffixes, "", ".xyz"))
    return "out" + rng.choice(suffixes)


# --- commands ------------------------------------------------------------------------


#: Tested with hostile input in a browser.
SERVING = ("explore", "serve")


@cache
def commands() -> dict[str, argparse.ArgumentParser]:
    """The commands by name, with the parser of each; none that serves until it is stopped."""
    actions = _build_parser()._actions
    found = next(a for a in actions if isinstance(a, argparse._SubParsersAction))
    return {k: v for k, v in found.choices.items() if k not in SERVING}


def arguments_of(name: str) -> Generator:
    """A generator of arguments for one command, from what its parser takes."""

    def generated(rng: Dice, folder: Path) -> list[str]:
        made = [name]
        metric = rng.choice(METRICS[:4] if name == "explain" else METRICS)
        more = _usual(rng, name, metric)
        for action in commands()[name]._actions:
            if action.dest in ("help", "this_machine"):  # that measures for as long as it is told
                continue
            if not action.option_strings:
                made += _positional(rng, folder, name, action)
            elif action.required or action.dest in more or rng.random() < 0.2:
                several = isinstance(action, argparse._AppendAction)
                for _ in range(rng.choice((1, 1, 2)) if several or rng.odd() else 1):
                    made.append(rng.choice(action.option_strings))
                    if action.nargs != 0:
                        given = more.get(action.dest)
                        made.append(_value(rng, folder, name, action) if given is None else given)
        if rng.odd():
            made.insert(rng.randint(0, len(made)), rng.choice((*mutate.WORDS, "--nope", "-B")))
        return [a.replace("\0", "") for a in made]

    generated.__name__ = f"arguments of {name}"
    return generated


def _usual(rng: Dice, name: str, metric: str) -> dict[str, str | None]:
    """Options that belong together, so that most cases are answered."""
    if name not in ("validate", "site") and rng.odd():
        return {}
    over = rng.choice((*NEEDS[metric], ",".join(NEEDS[metric][:2])))
    if name == "regimes":
        return {"metric": metric, "over": over, "at": points(rng, metric, over)}
    if name == "solve":
        unit = {"memory": " GB", "bytes": " GB"}.get(metric, "")
        budget = mutate.real(rng) + (unit or (" s" if metric in METRICS[:3] else ""))
        return {"metric": metric, "over": over[0], "at": points(rng, metric, over[0]),
                "budget": budget}  # fmt: skip
    if name == "reliability":
        return {
            "metric": "latency", "at": points(rng, "latency"), "link": "pcie",
            "on": "rtx-4090+i9-13900k", "passes": "offload{weights=host}", "channel": channel(rng),
        }  # fmt: skip
    if name == "explain":
        return {"metric": metric, "at": points(rng, metric)}
    if name == "analyze":
        phase = rng.choice(("prefill", "decode"))
        return {"phase": phase, "prompt": None, "context": None}
    if name == "sweep":
        return {rng.choice("STN"): None, "T": None}
    if name == "validate":  # a device of the kind that it measures would be measured
        return {"on": rng.choice(DEVICES[:5])}
    if name == "site":  # of everything it takes hours
        return {"models": rng.choice(("gpt2", "bert-base")), "on": rng.choice(DEVICES[:3]),
                "passes": "fuse"}  # fmt: skip
    if name == "calibrate":
        return {"tables": None, "device": "a100-80g"}
    if name == "draw" and rng.random() < 0.5:
        return {"on": None, "batch": None, "context": None}
    return {}


def _positional(rng: Dice, folder: Path, name: str, action: argparse.Action) -> list[str]:
    if name == "hardware":
        if action.dest == "others":
            return []
        several = ["compare", device(rng, folder), device(rng, folder)]
        return rng.choice(([], several, [device(rng, folder)]))
    if action.nargs == "?" and rng.random() < 0.2:
        return []
    if action.dest == "kind":
        kinds = ("roofline", "curve", "map", "breakdown", "waterfall", "pareto", "survey-fig7")
        return [rng.choice((*kinds, "x") if rng.odd() else kinds)]
    if name == "passes":
        return [mutate.text(rng, "fuse") if rng.odd() else rng.choice(list(PASSES))]
    return [model(rng, folder)]


SUFFIXES = {
    "draw": (".svg", ".json", ".dot", ".mmd", ".html", ".graphml"), "plot": (".svg",),
    "report": (".html",), "sweep": (".csv", ".zarr"), "calibrate": (".toml",),
}  # fmt: skip


def _value(rng: Dice, folder: Path, name: str, action: argparse.Action) -> str:
    if action.choices:
        return "x" if rng.odd() else str(rng.choice(list(action.choices)))
    several = isinstance(action, argparse._AppendAction)
    made: dict[str, Any] = {
        "on": lambda: ",".join(
            device(rng, folder) for _ in range(rng.choice((1, 1, 2)) if several else 1)
        ),
        "passes": lambda: pipeline(rng, deep=False),
        "limit": lambda: f"{rng.choice(METRICS[:4])}={mutate.real(rng)}",
        "over": lambda: rng.choice(SYMBOLS),
        "metric": lambda: rng.choice(METRICS[:7]),
        "metrics": lambda: ",".join(rng.sample(METRICS[:7], rng.randint(1, 3))),
        "objective": lambda: rng.choice(METRICS[:7]),
        "pareto": lambda: ",".join(rng.sample(METRICS[:7], 2)),
        "set": lambda: f"{rng.choice(SYMBOLS)}={values(rng)}",
        "accounting": lambda: rng.choice(("exact", "survey", "survey-textbook")),
        "fidelity": lambda: rng.choice(("ideal", "calibrated", "low", "median", "calibrated@vllm")),
        "output": lambda: output(rng, SUFFIXES.get(name, ("",))),
        "plot": lambda: output(rng, (".svg", ".png")),
        "tables": lambda: timings_file(rng, folder),
        "device": lambda: device(rng, folder),
        "at": lambda: points(rng),
        "budget": lambda: mutate.real(rng),
        "channel": lambda: channel(rng),
        "deadline": lambda: f"{mutate.real(rng)} ms",
        "link": lambda: rng.choice(("pcie", "network", "nvlink", "x")),
        "phase": lambda: rng.choice(("prefill", "decode", "encode")),
        "level": lambda: rng.choice(("op", "layer", "model")),
        "dtypes": lambda: rng.choice(("int8", "fp8,int8", "")),
        "width": lambda: rng.choice(("slide", "column")),
        **{n: lambda: mutate.whole(rng) for n in ("lower", "upper", "minutes", "threads", "chunk")},
        **{n: (lambda: mutate.whole(rng)) if name == "search" else (lambda: values(rng))
           for n in "BSNT"},
    }  # fmt: skip
    found = str(made.get(action.dest, lambda: mutate.whole(rng))())
    return mutate.text(rng, found) if rng.odd() else found


def configs(rng: Dice, folder: Path) -> list[str]:
    """Mutated configurations through the commands that are quick."""
    path = config_file(rng, folder)
    metric = rng.choice(METRICS)
    return rng.choice(
        (
            ["formula", path, "--on", "a6000"],
            ["models", path],
            ["models", path, "--json"],
            ["formula", path, "--on", "h100", "--metric", metric],
            ["formula", path, "--on", "h100", "--passes", pipeline(rng, deep=False)],
            ["analyze", path, "--on", "a6000", "--context", mutate.whole(rng)],
            ["explain", path, "--on", "a6000", "--at", points(rng)],
        )
    )


def devices(rng: Dice, folder: Path) -> list[str]:
    """Mutated files of devices."""
    path = device_file(rng, folder)
    return rng.choice(
        (
            ["hardware", path],
            ["hardware", path, "--json"],
            ["hardware", "compare", path, "h100"],
            ["formula", "gpt2", "--on", path],
            ["formula", "gpt2", "--on", path, "--metric", "energy"],
            ["explain", "gpt2", "--on", path, "--at", points(rng)],
            ["formula", "gpt2", "--on", path, "--fidelity", "calibrated"],
        )
    )


def calibrations(rng: Dice, folder: Path) -> list[str]:
    """A device with a calibration beside it that was changed."""
    import costgraph.hardware

    source = Path(next(iter(costgraph.hardware.__path__)))
    shutil.copy(source / "devices" / "h100.toml", folder / "mine.toml")
    lines = (source / "calibrations" / "h100.toml").read_text(encoding="utf-8").splitlines()
    for _ in range(rng.randint(1, 3)):
        i = rng.choice([i for i, x in enumerate(lines) if " = " in x])
        kind = rng.randrange(4)
        if kind == 0:
            lines[i] = mutate.text(rng, lines[i])
        elif kind == 1:
            del lines[i]
        else:
            head, _, tail = lines[i].rpartition(" = ")
            lines[i] = f"{head} = {rng.choice((mutate.whole(rng), '9' * 5000, '1' + tail))}"
    target = folder / "mine.calibration.toml"
    target.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return ["formula", "gpt2", "--on", "./mine.toml", "--fidelity", "calibrated"]


def timings(rng: Dice, folder: Path) -> list[str]:
    """Mutated tables of timings."""
    path = timings_file(rng, folder)
    more = rng.choice(([], [], ["--plot", output(rng, (".svg", ".png"))]))
    made = ["calibrate", "--from", path, "--device", "a100-80g", *more]
    return [*made, "-o", output(rng, (".toml",))]


def imports(rng: Dice, folder: Path) -> list[str]:
    """Damaged and random graphs."""
    path = onnx_file(rng, folder)
    more = rng.choice(([], ["--passes", "recognise,fold,fuse"], ["--metric", "memory"]))
    return rng.choice((["formula", path, "--on", "a6000", *more], ["models", path]))


def pipelines(rng: Dice, folder: Path) -> list[str]:
    """Random passes over the classes of models."""
    name, text = rng.choice(MODELS), pipeline(rng)
    metric = rng.choice(METRICS)
    over = rng.choice(NEEDS[metric])
    usual = [name, "--on", rng.choice(DEVICES), "--passes", text]
    timed = rng.choice(METRICS[:4])
    return rng.choice(
        (
            ["formula", *usual, "--metric", metric],
            ["explain", *usual, "--metric", timed, "--at", points(rng, timed)],
            ["regimes", *usual, "--metric", metric, "--over", over,
             "--at", points(rng, metric, over)],
            ["solve", *usual, "--metric", metric, "--over", over,
             "--at", points(rng, metric, over), "--budget", mutate.real(rng)],
        )
    )  # fmt: skip


def sweeps(rng: Dice, folder: Path) -> list[str]:
    """Values of sweeps."""
    made = ["sweep", rng.choice(MODELS[:8]), "--on", rng.choice(DEVICES)]
    for name in rng.choice(("BT", "BS", "BSN", "BSNT", "T", "N")):
        made += [f"-{name}", values(rng)]
    if rng.random() < 0.3:  # few enough points to be written
        made = [*made[:4], "-B", "1,2,3", "-T", "5:9", "-o", output(rng, SUFFIXES["sweep"])]
    return made


def stores(rng: Dice, folder: Path) -> list[str]:
    """An unfinished sweep, damaged, and the command that continues it."""
    shutil.copytree(_begun(), folder / "o.zarr.partial")
    chunks = sorted((folder / "o.zarr.partial" / "store.zarr").glob("[mt]*/[0-9]*"))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    target = rng.choice(rng.choice((chunks, chunks, files)))
    kind = rng.randrange(7)
    if kind == 0:
        target.unlink()
    elif kind == 1:
        target.write_bytes(mutate.data(rng, target.read_bytes()))
    elif kind == 2:
        target.unlink()
        os.mkfifo(target)
    elif kind == 3:
        target.unlink()
        target.symlink_to(rng.choice(("/dev/zero", "/dev/null", "nowhere", str(folder))))
    elif kind == 4:
        other = rng.choice(rng.choice((chunks, files)))
        first, second = target.read_bytes(), other.read_bytes()
        target.write_bytes(second)
        other.write_bytes(first)
    elif kind == 5:
        target.unlink()
        target.mkdir()
    else:
        shutil.rmtree(rng.choice([p for p in folder.rglob("*") if p.is_dir()]))
    return [*STORE, "-o", "o.zarr"]


STORE = (
    *("sweep", "gpt2", "--on", "a6000,h100", "-B", "1,2,7,9", "-T", "3,600", "-S", "12"),
    *("-N", "1,5", "--metric", "tpot,memory", "--chunk", "3"),
)


@cache
def _begun() -> Path:
    """The working directory of a sweep that was stopped."""
    import atexit
    import tempfile

    from costgraph.asking.sweeping import write_sweep

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise Stopped

    folder = Path(tempfile.mkdtemp(prefix="costgraph-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    grid = {"B": [1, 2, 7, 9], "T": [3, 600], "S": 12, "N": [1, 5]}
    try:
        write_sweep(folder / "o.zarr", "gpt2", ["a6000", "h100"], [""],
                    metrics=["tpot", "memory"], chunks=3, progress=stop, **grid)  # fmt: skip
    except Stopped:
        return folder / "o.zarr.partial"
    raise AssertionError("the sweep was not stopped")


#: Every kind of input, by name.
KINDS: dict[str, Generator] = {
    "configs": configs, "devices": devices, "calibrations": calibrations, "timings": timings,
    "imports": imports, "pipelines": pipelines, "sweeps": sweeps, "stores": stores,
    **{f"arguments of {name}": arguments_of(name) for name in commands()},
}  # fmt: skip
