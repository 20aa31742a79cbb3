"""Where the controls of a page start: at what somebody would ask about."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.showing.report.contents import controls
from costgraph.showing.report.starting import image_unit, start
from costgraph.symbols import symbol

#: Tokens of one image (or clip), and where the page starts: 24 x 24 patches of LLaVA, 12 x 12 of
#: MobileVLM, four tiles of 1601 of Llama 3.2, 375 of 30 s of Voxtral, windows of Qwen2.5-VL.
UNITS = {
    "llava-1.5-7b": (576, 576),
    "mobilevlm-1.7b": (144, 288),
    "llama-3.2-11b-vision": (6404, 6404),
    "voxtral-mini-3b": (375, 375),
    "qwen2.5-vl-7b": (16, 256),
    "qwen3-vl-8b": (1, 256),
    "flux-1-dev": (1, 4096),
}


def read(model: str) -> cg.Compiled:
    return cg.compile(model, "h100", symbolic_hardware=True)


@pytest.mark.parametrize("model", UNITS)
def test_images_are_whole_and_so_are_the_steps_of_their_slider(model):
    compiled = read(model)
    unit, begun = UNITS[model]
    assert image_unit([compiled]) == unit
    point = start([compiled], {})
    assert point["G"] == begun
    (control,) = controls({"G"}, [], point, {}, image_unit([compiled]))
    assert (control["value"], control["step"], control["kind"]) == (begun, unit, "size")
    at = {symbol(name): value for name, value in point.items()}
    assert [x for x in compiled.latency.limits if x.broken(at) is not None] == []


def test_what_is_given_stays_and_the_rest_makes_room():
    given = {"S": 100}
    assert start([read("qwen2.5-vl-7b")], given)["G"] == 64  # whole windows within the prompt
    assert start([read("llava-1.5-7b")], {"G": 1})["G"] == 1
    assert "G" not in start([read("gpt2")], {})


def test_prompts_of_models_that_make_pictures_are_what_their_text_encoder_reads():
    assert start([read("sd3-medium")], {})["S"] == 77
    assert start([read("qwen3-vl-8b")], {})["S"] == 1024
