"""Memory that programs can have: with a source for every device, and a reserve on demand."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import HardwareError, InputError
from costgraph.hardware import device_names, load_hardware

#: Byte, as drivers and frameworks print them on the products.
KNOWN = {
    "h100": 81559 * 2**20,
    "a100-80g": 80 * 2**30,
    "h200": 139.8 * 2**30,
    "rtx-3090": 23.58 * 2**30,
    "b200": 183359 * 2**20,
    "l40s": 46068 * 2**20,
    "mi300x": 206141652992,
    "tpu-v5e": 16 * 2**30,
}


@pytest.mark.parametrize("name", device_names())
def test_every_device_says_what_programs_can_have(name: str) -> None:
    memory = load_hardware(name).memory
    assert memory.capacity is not None
    assert memory.room is not None
    # Between three quarters of the stated size and what binary units make of it.
    assert 0.74 * memory.capacity < memory.room < 1.1 * memory.capacity
    stated = load_hardware(name).figures.get("memory.usable_capacity")
    if stated is not None:
        assert memory.room == stated.value
        assert len(stated.source) > 20


@pytest.mark.parametrize("name", KNOWN)
def test_well_known_sizes(name: str) -> None:
    room = load_hardware(name).memory.room
    assert room is not None
    assert float(room) == pytest.approx(KNOWN[name], rel=1e-9)


def test_a_model_that_fits_is_said_to_fit() -> None:
    found = cg.search("llama-3.1-70b", "h200", "fuse", S=1024, N=256)
    assert found.best is not None
    assert found.best.values["memory"] <= KNOWN["h200"]
    one = cg.compile("llama-3.1-70b", "h200", "fuse").memory
    assert one(B=found.best.batch + 1, S=1024, N=256) > KNOWN["h200"]


@pytest.mark.parametrize(
    ("kept", "left"), [("10%", 0.9), ("8 GiB", None), (8 * 2**30, None), ("0", 1.0), (None, 1.0)]
)
def test_a_reserve_is_kept_from_every_question(kept: str | int | None, left: float | None) -> None:
    room = KNOWN["h100"] * left if left is not None else KNOWN["h100"] - 8 * 2**30
    made = cg.compile("llama-3-8b", "h100", "fuse", reserve=kept)
    assert float(made.machine.memory.room or 0) == pytest.approx(room)
    batch = made.memory.solve_for("B", budget=room, S=1000, N=100).largest
    found = cg.search(made.program, "h100", "", S=1000, N=100, reserve=kept)
    assert found.best is not None
    assert found.best.batch == batch
    assert batch is not None
    sizes = {"S": 1000, "N": 100, "B": [batch, batch + 1]}
    swept = cg.sweep(made.program, "h100", "", metrics=["memory"], reserve=kept, **sizes)
    assert swept.fits.values.tolist() == [True, False]
    for size, fits in ((batch, True), (batch + 1, False)):
        table = cg.compare(made.program, "h100", [""], B=size, S=1000, N=100, reserve=kept)
        assert table.columns[0].fits is fits


@pytest.mark.parametrize("kept", ["100%", "-1 GB", "many", "80 Gb", -5, "1e99 GB", True, "101%"])
def test_a_reserve_that_makes_no_sense_is_refused(kept: object) -> None:
    with pytest.raises(InputError):
        cg.compile("llama-3-8b", "h100", reserve=kept)


def test_what_a_file_states_is_checked(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
name = "toy"
title = "A toy device"
[sources]
sheet = "Toy datasheet"
[peaks.tensor]
bf16 = {{ value = "10 TFLOP/s", source = "sheet" }}
[memory]
bandwidth = {{ value = "100 GB/s", source = "sheet" }}
{lines}
"""

    def load(lines: str) -> cg.Machine:
        path = tmp_path / "toy.toml"
        path.write_text(text.format(lines=lines))
        return load_hardware(path)

    capacity = 'capacity = { value = "8 GB", source = "sheet" }\n'
    assert load(capacity).memory.room == 8 * 10**9
    usable = 'usable_capacity = { value = "7900 MiB", source = "sheet" }'
    assert load(capacity + usable).memory.room == 7900 * 2**20
    for bad in (usable, capacity + usable.replace("7900 MiB", "9 GB")):
        with pytest.raises(HardwareError, match="usable_capacity"):
            load(bad)
    with pytest.raises(HardwareError, match="states no memory"):
        load("").reserving("1 GB")
    main(["hardware", "h200"])
    assert "usable_capacity" in capsys.readouterr().out
