"""`vr plan`: its predictions are the reference's figures, what is assumed is said, what was measured is used."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.doctor.links import keep_links, rates_mbit, read_links
from cluster.doctor.report import ClusterReport, NodeReport
from cluster.inventory import Inventory
from cluster.probe.readings import Link
from dataprep.batches.loader import read_batch
from dataprep.batches.order import Item, Read
from dataprep.preparing.prepare import prepare
from dataprep.shards.dataset import Dataset
from jobs.planning.arithmetic import arithmetic_of
from jobs.planning.forecast import Machine, bottleneck, enough_items, machines_of, predict
from jobs.recipe import Recipe
from jobs.steps.shares import Speed
from jobs.training.speed.kept import keep_speed, kept_speeds, key_of
from tests.command_line import vr
from tests.dataprep.data import SETTINGS, labelled
from tests.jobs.training import recipe_of
from vr_core.config import load, to_yaml, validate
from vr_core.errors import UserError
from vr_core.models.registry import build

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "cluster" / "example.yaml"
PARAMETERS = 123_000_000
SHAPES = [(PARAMETERS,)]
TI_3090 = Machine("attic", "RTX 3090 Ti", Speed(0, 0.446 / 16, 4), "measured", 450)
TI_3080 = Machine("study", "RTX 3080 Ti", Speed(0, 0.446 / 16 / 0.86, 4), "measured", 300)


def two(link_gbit):
    return [TI_3090.behind(link_gbit), TI_3080.behind(link_gbit)]


def recipe(items=16, **more):
    return validate(Recipe, {"name": "demo", "steps": 3600, "batch": {"items": items}, "nodes": {}, **more}, "demo")


def test_two_cards_at_each_link_are_what_the_reference_says():
    """Worked out by hand: 4.19, 1.67 and 0.42 s of exchange, and who is worth it."""
    found = [predict(two(link), recipe(1024), SHAPES) for link in (1, 2.5, 10)]
    assert [one.exchange_s for one in found] == pytest.approx([4.19, 1.67, 0.42], abs=0.01)
    assert all(one.machines == ("attic", "study") for one in found)
    assert found[0].sent_bytes == 4 * PARAMETERS
    alone = predict(two(1), recipe(32), SHAPES)
    assert (alone.machines, alone.left_out, alone.sent_bytes) == (("attic",), ("study",), 0)
    assert alone.step_s == pytest.approx(2 * 0.446)
    assert alone.hours == pytest.approx(2 * 0.446)
    assert alone.kwh == pytest.approx(0.45 * 2 * 0.446)
    assert alone.all_step_s > 4


def test_shares_are_those_of_a_run():
    one = predict(two(10), recipe(1024), SHAPES)
    assert sum(one.shares) == 1024
    assert one.shares[0] / one.shares[1] == pytest.approx(1 / 0.86, rel=0.01)


def test_the_bottleneck_is_what_helps_most():
    everyone = recipe(64, nodes={"leave_out": False})
    slow = predict(two(1), everyone, SHAPES)
    assert bottleneck(slow, two(1), everyone, SHAPES)[0] == "the network"
    quick = predict(two(10), recipe(512), [(1000,)])
    what, then_s = bottleneck(quick, two(10), recipe(512), [(1000,)])
    assert what == "attic"
    assert then_s == pytest.approx(quick.step_s * 1.86 / 2.86, rel=0.01)


def test_from_how_many_items_on_all_are_worth_having():
    enough = enough_items(two(1), recipe(16), SHAPES)
    assert predict(two(1), recipe(enough), SHAPES).left_out == ()
    assert predict(two(1), recipe(enough // 2), SHAPES).left_out != ()


def test_auto_takes_the_quicker_way_and_plain_where_it_hardly_matters():
    auto = recipe(256, sync="auto")
    assert predict(two(1), auto, SHAPES).sync == "bf16"
    assert predict(two(10), auto, [(1000,)]).sync == "plain"


def test_diloco_makes_two_cards_at_1_gbit_worth_having_where_no_exchange_of_gradients_does():
    listed = recipe(32, sync={"auto": ["diloco", "bf16", "plain"]}, diloco={"start_step": 0})
    one = predict(two(1), listed, SHAPES)
    assert (one.sync, one.machines) == ("diloco", ("attic", "study"))
    computing_s = 2 * 0.446 / 1.86
    assert one.step_s == pytest.approx(computing_s, rel=0.06), "what travels does so behind whole steps"
    assert list(one.ways_s) == ["plain", "bf16", "diloco"], "the most exact first, whatever the recipe's order"
    assert one.ways_s["bf16"] > 1.5 * one.step_s
    assert one.sent_bytes == pytest.approx(2 * PARAMETERS / 16)
    half = predict(two(1), recipe(32, sync={"auto": ["diloco", "plain"]}), SHAPES)
    assert half.sync == "diloco"
    assert half.sent_bytes == pytest.approx(one.sent_bytes / 2)
    assert half.step_s == pytest.approx((2 * 0.446 / 0.86 + one.step_s) / 2, rel=0.01), "at first all on each"


def planned(name, *changes, link_gbit=1.0):
    """What `vr plan` says of a shipped recipe on the 3090 Ti and the 3080 Ti of the example."""
    file = ROOT / "jobs" / "recipes" / f"{name}.yaml"
    given = load(Recipe, file, ["sync=plain", *changes])
    counted = arithmetic_of(given)
    machines, _ = machines_of(
        load(Inventory, EXAMPLE), given, counted.item_flop, {}, {"attic": link_gbit, "study": link_gbit}
    )
    return counted, predict(machines, given, counted.shapes), predict(machines[:1], given, counted.shapes).step_s


def test_a_second_pc_helps_a_roformer_and_not_the_dense_net():
    """Of the same arithmetic: a RoFormer computes some thirty times more for each number that travels."""
    counted, both, alone_s = planned("roformer-finetune", "model.recompute=false")
    assert counted.parameters == 51_049_420
    assert alone_s == pytest.approx(5.3, abs=0.05)
    assert both.machines == ("attic", "study")
    assert 4.0 < both.step_s < 4.7
    eight = "batch.items=8"
    assert planned("roformer-finetune", eight, "sync=bf16")[1].machines == ("attic", "study")
    counted, dense, dense_s = planned("home-finetune", "batch.items=16")
    assert counted.parameters == 141_062_218
    assert (dense.machines, dense.step_s) == (("attic",), dense_s)
    assert dense.all_step_s > 20 * dense_s
    # Where no gradients travel it helps all the same.
    local = planned("home-finetune", "batch.items=16", "sync=diloco", "diloco.start_step=0")[1]
    assert (local.machines, local.step_s < dense_s) == (("attic", "study"), True)


@pytest.mark.parametrize("items", [2, 8, 16])
def test_with_lora_a_fiftieth_travels_and_a_second_pc_always_helps(items):
    counted, both, alone_s = planned("roformer-lora", f"batch.items={items}")
    whole, _, _ = planned("roformer-finetune")
    assert counted.parameters < 0.02 * whole.parameters
    assert both.machines == ("attic", "study")
    assert both.sent_bytes == 4 * counted.parameters
    assert both.step_s < 0.66 * alone_s


def test_arithmetic_is_that_of_the_model():
    """Of a product of matrices 2 n m k; of the reference model 0.87 GFLOP a token, forward and backward."""
    home = load(Recipe, ROOT / "jobs" / "recipes" / "home-pretrain.yaml")
    found = arithmetic_of(home)
    assert found.parameters == sum(p.numel() for p in build(home.model, 1024).parameters())
    a_token = found.item_flop / home.batch.crop_frames / found.parameters
    assert a_token == pytest.approx(6, rel=0.2), "six a parameter, and attention"
    frozen = arithmetic_of(home.model_copy(update={"optim": home.optim.model_copy(update={"freeze": ("blocks.*",)})}))
    assert 0 < frozen.parameters < found.parameters / 10


@pytest.mark.parametrize(
    ("codec", "mixture_codec"), [("polar8", "magnitude8"), ("complex16", "magnitude8"), ("polar8", "complex16")]
)
def test_bytes_of_an_item_are_those_that_the_data_set_stores(tmp_path, codec, mixture_codec):
    song = labelled(tmp_path / "music", "a", 6_000, 1)
    prepare([song], tmp_path / "data", SETTINGS.model_copy(update={"codec": codec, "mixture_codec": mixture_codec}))
    data = Dataset.open(tmp_path / "data")
    for objective in ("separate", "masked_frames"):
        spec = recipe_of(tmp_path / "data", **{"objective.name": objective})
        frames, slots = spec.batch.crop_frames, spec.objective.signals.slots
        read = read_batch(data, [Item(0, 0, frames, tuple(Read("a", slot.stem, 0, frames) for slot in slots))])
        stored = sum(column.nbytes for stem in read.slots.values() for column in stem.columns.values())
        assert arithmetic_of(spec).item_bytes == stored


def test_what_was_measured_is_used_and_what_is_assumed_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    spec = recipe_of(tmp_path, nodes={})
    key = key_of(spec, 32, torch.device("cpu"), True) | {"device": "NVIDIA GeForce RTX 3090 Ti"}
    keep_speed(key, Speed(0.1, 0.2, 2))
    assert kept_speeds(spec, 32) == {"NVIDIA GeForce RTX 3090 Ti": Speed(0.1, 0.2, 2)}
    assert kept_speeds(spec, 64) == {}
    inventory = load(Inventory, EXAMPLE)
    machines, unknown = machines_of(inventory, spec, 1e12, kept_speeds(spec, 32))
    assert [(m.name, m.basis) for m in machines] == [
        ("attic", "measured"), ("study", "assumed: 40% of 68 TFLOPS"),
    ]  # fmt: skip
    assert machines[1].speed.item_s == pytest.approx(1 / 27.2)
    assert unknown == []


def test_each_phase_is_predicted_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    changes = ["steps=1000", "curriculum=[{until_step: 400, crop_frames: 64}]", "optim.unfreeze={blocks.0.*: 900}",
               "batch.crop_frames=256"]  # fmt: skip
    told = json.loads(vr("plan", "home-pretrain", "-i", EXAMPLE, *changes, "--json").stdout)
    rows = told["phases"]
    assert [(row["first_step"], row["steps"], row["crop_frames"]) for row in rows] == [
        (0, 400, 64), (400, 500, 256), (900, 100, 256),
    ]  # fmt: skip
    assert rows[0]["parameters"] == rows[1]["parameters"] < rows[2]["parameters"] == told["parameters"]
    assert rows[0]["step_s"] < rows[1]["step_s"] <= rows[2]["step_s"] == told["prediction"]["step_s"]
    assert all(row["hours"] == pytest.approx(row["steps"] * row["step_s"] / 3600) for row in rows)
    shown = vr("plan", "home-pretrain", "-i", EXAMPLE, *changes).stdout
    assert f"in all phases {sum(row['hours'] for row in rows):.2f} hours" in shown


def test_links_are_as_the_doctor_measured_them_and_else_assumed(tmp_path, monkeypatch):
    """A card of 10 Gbit/s, one of 1 and one that was not measured; a later look replaces an earlier one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    nodes = [{"name": n, "address": f"10.0.0.{k}", "role": "head" if k == 1 else "worker",
              "gpus": [{"model": "RTX 3090 Ti", "memory_gib": 24}]} for k, n in enumerate("abcd", 1)]  # fmt: skip
    inventory = validate(Inventory, {"nodes": nodes}, "test")
    reports = tuple(NodeReport(node) for node in inventory.nodes)

    def measure(**mbit):
        links = {(pair[0], pair[1]): Link((), there_mbit=there, back_mbit=9400) for pair, there in mbit.items()}
        keep_links(ClusterReport(reports, links))

    measure(ab=9400, ac=1200, bc=940)
    measure(ac=940)
    assert (tmp_path / "vr" / "links.json").stat().st_mode & 0o777 == 0o600
    assert rates_mbit(inventory, read_links()) == {"a": 9400, "b": 9400, "c": 940}
    rates = {name: mbit / 940 for name, mbit in rates_mbit(inventory, read_links()).items()}
    machines, _ = machines_of(inventory, recipe(1024), 1e12, {}, rates)
    assert [m.link_gbit for m in machines] == [10, 10, 1, 1]
    assert predict(machines[:2], recipe(1024), SHAPES).exchange_s == pytest.approx(0.42, abs=0.01)
    assert predict(machines[:3], recipe(4096), SHAPES).exchange_s == pytest.approx(4 / 3 * 4.19, abs=0.02)
    (file := tmp_path / "home.yaml").write_text(to_yaml(inventory))
    said = vr("plan", "home-pretrain", "-i", file).stdout
    assert "what links carry: a 9400 Mbit/s, b 9400 Mbit/s, c 940 Mbit/s, d 940 Mbit/s (assumed); vr cluster" in said
    (tmp_path / "vr" / "links.json").write_text("{")
    assert read_links() == ()


def test_a_card_of_which_nothing_is_known_is_named_and_not_counted():
    node = {"name": "old", "address": "10.0.0.9", "role": "head", "gpus": [{"model": "Voodoo 2", "memory_gib": 12}]}
    bare = {"name": "bare", "address": "10.0.0.8", "gpus": []}
    inventory = validate(Inventory, {"nodes": [node, bare]}, "test")
    machines, unknown = machines_of(inventory, recipe(), 1e12, {})
    assert machines == []
    assert "Voodoo 2" in unknown[0]
    assert len(unknown) == 1, "without a GPU it would not take part"
    machines, unknown = machines_of(inventory, recipe(nodes={"exclude": ["old"]}), 1e12, {})
    assert unknown == ["bare: it computes without a card, and its processor is not known on this PC"]
    alone = recipe(nodes={"exclude": ["old"]})
    machines, unknown = machines_of(inventory, alone, 1e12, {}, processors={"bare": "K6-2"})
    assert unknown == ["bare: no speed of its K6-2 is known; run the recipe there for some steps"]
    machines, unknown = machines_of(inventory, alone, 1e12, {"K6-2": Speed(0, 9, 1)}, processors={"bare": "K6-2"})
    assert [(m.name, m.device, m.speed.item_s, m.basis) for m in machines] == [("bare", "K6-2", 9, "measured")]
    assert unknown == []
    with pytest.raises(UserError, match="cannot hold the run: 0 of 1 machines"):
        machines_of(inventory, recipe(nodes={"exclude": ["old", "bare"]}), 1e12, {})


def test_who_takes_part_is_who_a_run_would_take():
    inventory = load(Inventory, EXAMPLE)
    assert [m.name for m in machines_of(inventory, recipe(nodes={"max": 1}), 1e12, {})[0]] == ["attic"]
    assert [m.name for m in machines_of(inventory, recipe(nodes={"memory_gib": 20}), 1e12, {})[0]] == ["attic"]
    fixed = validate(Recipe, {"name": "demo", "steps": 9, "workers": {"count": 1}}, "demo")
    assert [m.name for m in machines_of(inventory, fixed, 1e12, {})[0]] == ["attic"], "one worker is one machine"


def test_the_command_says_all_of_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    asked = ["plan", "home-pretrain", "-i", EXAMPLE]
    done = vr(*asked)
    for words in (
        "141 M parameters",
        "assumed: 40% of 80 TFLOPS",
        "left out",
        "2.5 Gbit/s",
        "worth having from",
        "does not list (sync={auto: [...]}): bf16",
    ):
        assert words in done.stdout
    told = json.loads(vr(*asked, "--link", 10, "batch.items=512", "--json").stdout)
    assert told["prediction"]["link_gbit"] == 10
    assert told["prediction"]["machines"] == ["attic", "study"]
    assert [one["link_gbit"] for one in told["other_links"]] == [1, 2.5]
    assert told["all_are_worth_having_from_items"] == 512
    vr("plan", "home-pretrain", code=2)


def test_a_slow_second_card_stays_or_goes_with_its_pc():
    """By themselves attic's new card and study would be quickest, which no run can have."""
    slower = {"attic/1": 1, "attic/2": 30, "study": 3}
    machines = [replace(TI_3090, name=name, speed=TI_3090.speed.slower(by)).behind(10) for name, by in slower.items()]
    found = predict(machines, recipe(16), [(250_000,)])
    assert (found.machines, found.left_out) == (("attic/1", "attic/2", "study"), ())
