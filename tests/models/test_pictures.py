"""Image tokens of sizes against the published processors, and what the tower does for them.

The table was made with transformers (``tests/models/data/image_tokens.json`` says of which
processors, with which figures): sixty sizes of pictures and some videos, from one pixel to
12,200.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.errors import InputError
from costgraph.hardware.machine import Engine
from costgraph.models import load_model
from costgraph.models.catalog import CONFIGS as SHIPPED
from costgraph.models.families import FAMILIES
from costgraph.models.fields import Fields
from costgraph.ops.image import PackRows
from costgraph.symbols import B, G
from tests.models.counting import DATA

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "data" / "image_tokens.json").read_text())
CONFIGS = DATA / "configs"
#: Column of the table to a configuration whose processor it is.
MODELS = {
    "llava": SHIPPED / "llava-1.5-7b.json",
    "llava_next": CONFIGS / "llava-next-default.json",
    "llava_onevision": CONFIGS / "llava-onevision-default.json",
    "internvl": CONFIGS / "internvl-default.json",
    "qwen2_vl": SHIPPED / "qwen2.5-vl-7b.json",
    "qwen3_vl": SHIPPED / "qwen3-vl-8b.json",
    "mistral3": CONFIGS / "mistral3-default.json",
    "gemma3": CONFIGS / "gemma-3-27b.json",
    "idefics3": CONFIGS / "idefics3-small.json",
    "llama4": CONFIGS / "llama-4-scout-seeing.json",
}


def config(name: str) -> dict:
    values = json.loads(MODELS[name].read_text())
    if name == "idefics3":  # the tower of Idefics3-8B, in the small model
        values["vision_config"] |= {"image_size": 364, "patch_size": 14}
        values["scale_factor"] = 2
    return values


def processor(name: str):
    values = config(name)
    return FAMILIES[values["model_type"]](Fields(name, values)).model.eyes.processor


def vision(program):
    """Products of the tower over ``B``."""
    phase = program.phase("vision")
    return phase.bind(phase.graph.cost.flops_of(Engine.TENSOR))


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_every_size_make_as_many_tokens_as_the_processor_says(name):
    made, place = processor(name), TABLE["columns"].index(name)
    assert len(TABLE["images"]) == 60
    for row in TABLE["images"]:
        height, width, told = *row[:2], row[place]
        if told is None:
            with pytest.raises(InputError):
                made.picture(height, width)
            continue
        seen = made.picture(height, width)
        assert seen.rows + seen.marks == told, (height, width)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_videos_make_as_many_tokens_as_the_processor_says(name):
    made, place = processor(name), TABLE["video_columns"].index(name)
    for row in TABLE["videos"]:
        told = row[place]
        if told is None:
            with pytest.raises(InputError):
                made.video(*row[:3])
            continue
        assert made.video(*row[:3]).rows == told, row


@pytest.mark.parametrize("name", MODELS)
def test_a_size_takes_the_place_of_the_symbol(name):
    (row,) = (r for r in TABLE["images"] if r[:2] == [720, 1280])
    sized = load_model(config(name), image="1280x720")
    assert all(G not in p.bind(p.graph.cost.total_flops).free_symbols for p in sized.phases)
    seen = processor(name).picture(720, 1280)
    told = row[TABLE["columns"].index(name)]
    assert any(f" G = {told - seen.marks} tokens" in a for a in sized.assumptions)
    same = load_model(config(name), image=(720, 1280))
    assert same.phases == sized.phases
    if seen.marks:
        assert any(f"{seen.marks} further tokens" in a for a in sized.assumptions)
        compiled = cg.compile(sized, "h100")
        with pytest.raises(InputError, match=f"S = {told - 1} is below {told}"):
            compiled.ttft.evaluate(B=1, S=told - 1)
        assert compiled.ttft.evaluate(B=1, S=told) > 0


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl"])
def test_several_pictures_cost_the_tower_what_as_many_sequences_of_one_do(name):
    one, four = (load_model(config(name), image=i) for i in ("640x480", "4x640x480"))
    assert vision(four).expand() == vision(one).xreplace({B: 4 * B}).expand()
    # Seen together they would cost more: patches of one do not see those of another.
    rows = 4 * processor(name).picture(480, 640).rows
    together = vision(load_model(config(name))).xreplace({G: Integer(rows)})
    assert (together - vision(four)).expand().xreplace({B: Integer(1)}) >= 0
    assert (together == vision(four)) is (name == "llava")


def test_clips_large_tower_does_381_gigaflop_for_a_picture():
    """ViT-L/14 at 336 pixels: 24 layers over 577 positions."""
    program = load_model("llava-1.5-7b", image="336x336")
    graph = program.phase("vision").graph
    layers = [n.op for n in graph.nodes if n.op.kind == "repeat"]
    assert sum(r.count for r in layers) == 24
    costs = (r.body.cost.scaled(r.count) for r in layers)
    products = sum(cost.flops_of(Engine.TENSOR) for cost in costs)
    assert products.xreplace({B: 1}) == 24 * (2 * 577 * 12 * 1024**2 + 4 * 577**2 * 1024)
    assert round(float(products.xreplace({B: 1})) / 1e9, 1) == 381.2


def test_tiles_are_all_seen_and_their_padding_is_cut_off():
    made = load_model(config("llava_next"), image="1280x720")
    graph = made.phase("vision").graph
    (pack,) = (n for n in graph.nodes if isinstance(n.op, PackRows))
    assert pack.outputs[0].shape[:2] == (B, 1948)
    assert graph.operands(pack)[0].shape[1] == 5 * 576  # the picture, and four tiles of 672 x 672
    # 20 lines of padding are cut off: 28 are left of the 48, of 48 tokens, and an end each.
    assert 1948 == 576 + 28 * 48 + 28
    cost = pack.op.cost(tuple(graph.operands(pack)), pack.outputs)
    width = pack.outputs[0].shape[2]
    assert cost.total_bytes == 2 * 1948 * B * width * 2
    one = vision(load_model(config("llava_next")))
    assert vision(made) == one.xreplace({G: Integer(5 * 576)})


def test_rows_beyond_nine_tiles_are_interpolated():
    made = load_model(config("llava_onevision"), image="3840x2160")
    graph = made.phase("vision").graph
    (pack,) = (n for n in graph.nodes if isinstance(n.op, PackRows))
    seen = processor("llava_onevision").picture(2160, 3840)
    assert pack.op.count == seen.rows == 7317
    assert pack.op.mixed == seen.mixed > 0
    cost = pack.op.cost(tuple(graph.operands(pack)), pack.outputs)
    assert cost.total_flops == 7 * seen.mixed * B * pack.outputs[0].shape[2]


def test_pictures_lengthen_the_first_token_and_the_cache():
    text = cg.compile("qwen2.5-vl-7b", "h100", "fuse", images=False)
    seen = cg.compile("qwen2.5-vl-7b", "h100", "fuse", image="1280x720")
    tower = seen.time("vision").evaluate(B=1)
    prompt = seen.time("prefill").evaluate(B=1, S=1300)
    assert seen.ttft.evaluate(B=1, S=1300) == pytest.approx(tower + prompt)
    assert seen.ttft.evaluate(B=1, S=1300) > text.ttft.evaluate(B=1, S=104) + tower
    small, large = (text.memory.evaluate(B=8, S=s, N=500) for s in (104, 1300))
    assert large - small > 8 * 1196 * 2 * 28 * 4 * 128 * 2 * 0.99


def test_tiles_beside_the_whole_are_what_the_tower_sees():
    small = json.loads((CONFIGS / "smolvlm-small.json").read_text())
    one, cut = load_model(small), load_model(small, image="1280x720")
    # 64 tokens a tile of 512 pixels: four by three tiles of the picture, and the picture.
    assert vision(cut) == vision(one).xreplace({G: Integer(13 * 64)})
    assert any("scaled to 2048 pixels" in a for a in cut.assumptions)
    video = load_model(small, video="1280x720@5")
    assert vision(video) == vision(one).xreplace({G: Integer(5 * 64)})


def test_a_video_is_steps_of_two_frames_that_see_themselves():
    video = load_model("qwen2-vl-7b", video="640x360@30s@2fps")
    assert video.phases == load_model("qwen2-vl-7b", video="640x360@60").phases
    assert any("60 frames of 640 x 360 pixels, scaled to 644 x 364" in a for a in video.assumptions)
    picture = load_model("qwen2-vl-7b", image="644x364")
    assert vision(video).expand() == vision(picture).xreplace({B: 30 * B}).expand()


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("llava-1.5-7b", {"video": "640x360@60"}, "takes no videos"),
        ("qwen2.5-vl-7b", {"image": "640x480,1280x720"}, "pictures of one size"),
        ("qwen2.5-vl-7b", {"image": "3000x10"}, "more than 200 times"),
        ("qwen2.5-vl-7b", {"image": "640x"}, "such as '1280x720'"),
        ("qwen2.5-vl-7b", {"image": "0x640x480"}, "shows 0: from 1"),
        ("qwen2.5-vl-7b", {"video": "640x480"}, "WIDTHxHEIGHT@FRAMES"),
        ("qwen2.5-vl-7b", {"video": "640x480@1s@0.5fps"}, "shows 0: from 1"),
        ("qwen2.5-vl-7b", {"video": "640x480@1s@1e99999fps"}, "video"),
        ("qwen2.5-vl-7b", {"image": "640x480", "images": False}, "shows nothing"),
        ("llama-3-8b", {"video": "640x480@8"}, "'video' has no effect"),
        ("vit-base-16", {"image": "2x224x224"}, "'image' has no effect"),
        ("idefics3-small", {"video": "640x360@60"}, "takes no videos"),
        ("llama-3.2-11b-vision", {"image": "640x480"}, "tiles have one size"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(model, options, words):
    path = CONFIGS / f"{model}.json"
    with pytest.raises(InputError, match=words) as error:
        load_model(str(path) if path.exists() else model, **options)
    assert "\n" not in str(error.value)
