"""`vr models`: the table, its JSON, and which card has room for what."""

import json
from pathlib import Path

import pytest

from jobs.planning.fits import FROZEN_BYTES, RESERVED_BYTES, TRAINED_BYTES, Fit, fit
from tests.command_line import vr
from vr_core.specs.configurations import CONFIGURATIONS, Figures

GIB = 2**30
M = Figures(1_000_000, 1.0, 100, 10)


@pytest.mark.parametrize(("free_bytes", "found"), [
    (TRAINED_BYTES * M.parameters + 250, Fit("whole", 2, recompute=False)),
    (TRAINED_BYTES * M.parameters + 100, Fit("whole", 1, recompute=False)),
    (TRAINED_BYTES * M.parameters + 99, Fit("whole", 9, recompute=True)),
    (TRAINED_BYTES * M.parameters + 9, Fit("lora", 155_999, recompute=False)),
    (FROZEN_BYTES * M.parameters, Fit("no", 0, recompute=False)),
])  # fmt: skip
def test_all_parameters_go_before_lora_and_speed_before_memory(free_bytes: float, found: Fit) -> None:
    if found.way == "lora":
        found = Fit("lora", int((free_bytes - 4.4 * M.parameters) // M.item_bytes), recompute=False)
    assert fit(M, RESERVED_BYTES + free_bytes) == found


def test_a_model_that_cannot_recompute_is_not_said_to() -> None:
    assert fit(Figures(1_000_000, 1.0, 100), RESERVED_BYTES + TRAINED_BYTES * 1_000_000 + 99).way == "lora"


def test_every_configuration_is_listed_with_its_count() -> None:
    found = json.loads(vr("models", "--json").stdout)
    assert found.keys() == CONFIGURATIONS.keys()
    row = found["bs_roformer/256x12-six"]
    assert (row["parameters"], len(row["stems"]), row["n_fft"], row["hop"]) == (174_656_564, 6, 2048, 441)
    assert row["forward_gflop_per_s"] == pytest.approx(474, rel=0.01)
    table = vr("models").stdout
    assert all(name in table for name in CONFIGURATIONS)
    assert "98,194,828" in table


def test_each_pc_is_told_what_its_largest_card_can_train(tmp_path: Path) -> None:
    (tmp_path / "home.yaml").write_text("""
nodes:
  - {name: attic, address: 10.0.0.1, role: head, gpus: [{model: RTX 3090 Ti, memory_gib: 24}]}
  - {name: den, address: 10.0.0.2, gpus: [{model: RTX 3050, memory_gib: 4}, {model: RTX 2060, memory_gib: 6}]}
  - {name: loft, address: 10.0.0.3, gpus: []}
""")
    found = json.loads(vr("models", "-i", tmp_path / "home.yaml", "--json").stdout)
    large = found["bs_roformer/512x12"]["pcs"]
    assert large["attic"] == {"way": "whole", "micro_batch": 4, "recompute": True}
    assert large["den"]["way"] == "no"
    assert "loft" not in large
    assert found["plain_stack/256x3"]["pcs"]["den"]["way"] == "whole"
    said = vr("models", "-i", tmp_path / "home.yaml").stdout
    assert "Without a card that the inventory names: loft." in said


def test_the_markdown_table_has_a_row_for_every_configuration_and_its_memory(tmp_path: Path) -> None:
    (tmp_path / "home.yaml").write_text(
        "nodes: [{name: attic, address: 10.0.0.1, role: head, gpus: [{model: RTX 3090 Ti, memory_gib: 24}]}]"
    )
    headings, ruled, *rows = [line.strip("|").split("|") for line in vr("models", "--table").stdout.splitlines()]
    assert [heading.strip() for heading in headings][-3:] == ["item MB", "hears", "head"]
    assert [row[0].strip() for row in rows] == list(CONFIGURATIONS)
    assert {len(row) for row in (ruled, *rows)} == {len(headings)}
    [row] = [row for row in rows if row[0].strip() == "bs_roformer/256x12"]
    assert [cell.strip() for cell in row[1:]] == ["51,049,484", "449", "8.0", "35,268", "complex", "complex_mask"]
    refused = vr("models", "--table", "--json", code=2)
    assert "--table and --json: give one of them" in refused.stderr
    with_pcs = vr("models", "--table", "-i", tmp_path / "home.yaml").stdout
    assert with_pcs.splitlines()[0].endswith("| head | attic |")
    assert "\n\nItems at once" in with_pcs
