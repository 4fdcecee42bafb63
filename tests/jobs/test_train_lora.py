"""A run with LoRA through the whole loop: what it writes and exchanges, killed and resumed, merged and used."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from jobs.checkpoints.format import read_newest
from jobs.planning.arithmetic import arithmetic_of
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from tests.command_line import vr
from tests.jobs.training import ROFORMER, distance, here, kill_after_checkpoint, last_weights, new_run, recipe_of
from tests.jobs.training import start as start_ranks
from vr_core.config import to_yaml
from vr_core.errors import ConfigError, WeightsError
from vr_core.loading import load_merged, load_model
from vr_core.weights import BASE, load_weights


@pytest.fixture(scope="module")
def teacher(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a short run of all layers."""
    run = new_run(tmp_path_factory.mktemp("teacher") / "run", recipe_of(tiny_data, **ROFORMER | {"steps": 6}))
    here(run)
    return run.pointer("last") / "weights.safetensors"


def lora(data: Path, init: Path, **changes: object):
    given = ROFORMER | {"init": str(init), "lora": {"rank": 2, "alpha": 8}, "optim.lr": 1e-2}
    return recipe_of(data, **given | changes)


def names_in(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as opened:
        return set(opened.keys())


def is_factor(name: str) -> bool:
    return name.endswith((".lora_a", ".lora_b"))


@pytest.mark.parametrize("sync", ["plain", "diloco"])
def test_two_ranks_killed_and_resumed_by_one_end_where_one_ends(sync, teacher, tiny_data, tmp_path) -> None:
    recipe = lora(
        tiny_data, teacher, sync=sync, **{"diloco.start_step": 20, "diloco.every_steps": 3} if sync == "diloco" else {}
    )
    undisturbed = new_run(tmp_path / "undisturbed", recipe)
    here(undisturbed)
    run = new_run(tmp_path / "run", recipe)
    kill_after_checkpoint(run, start_ranks(run, 2, tmp_path / "meeting"), 3)
    here(run)
    weights = last_weights(run)
    assert distance(weights, last_weights(undisturbed)) < 1e-9
    assert all(is_factor(name) for name in weights)
    merged, _ = load_merged(run.pointer("last") / "weights.safetensors")
    base, _ = load_weights(teacher)
    assert distance(merged, base) > 1e-3


def test_a_checkpoint_holds_the_factors_alone_and_goes_on_without_init(teacher, tiny_data, tmp_path) -> None:
    init = tmp_path / "init.safetensors"
    init.write_bytes(teacher.read_bytes())
    run = new_run(tmp_path / "run", lora(tiny_data, init, **{"steps": 9}))
    here(run)
    checkpoint, _ = read_newest(run)
    trained = {name for name in names_in(teacher) if "x" in name} | {n for n in checkpoint.weights if is_factor(n)}
    assert set(checkpoint.weights) == set(checkpoint.training["model"]) == trained
    moments = checkpoint.training["optimiser"]["state"]
    assert len(moments) == len(trained) == 2 * 2 * 4  # A and B of the four layers of two transformers
    init.unlink()
    (run.path / "recipe.yaml").write_text((run.path / "recipe.yaml").read_text().replace('"steps": 9', '"steps": 12'))
    assert here(RunFolder(run.path)).how == "finished"


def test_merged_it_computes_what_the_run_trained(teacher, tiny_data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = create_run(lora(tiny_data, teacher, **{"steps": 9, "out": str(tmp_path / "runs")}))
    here(run)
    told = json.loads(vr("export", run.path, "-o", tmp_path / "merged", "--json").stdout)
    assert (told["merged"], told["step"]) == (True, 9)
    (tmp_path / "moved").mkdir()
    alone = (tmp_path / "merged.safetensors").rename(tmp_path / "moved" / "mine.safetensors")
    assert load_weights(alone)[1].adapter is None
    model, meta = load_model(alone)
    whole, _ = load_model(run.pointer("last") / "weights.safetensors")
    x = torch.randn(1, 2, 33, 8, dtype=torch.complex64)
    assert all(torch.equal(a, b) for a, b in zip(model(x).values(), whole(x).values(), strict=True))
    assert meta.parents[0].run == load_weights(teacher)[1].run
    said = vr("export", run.path, "-o", alone, code=2).stderr
    assert f"{alone}: is there already; give another --out, or --replace" in said
    # What is merged is a model like another: it can be trained, with LoRA again too.
    here(new_run(tmp_path / "next", lora(tiny_data, alone, **{"steps": 3})))


def test_factors_on_factors_are_refused_before_anything_is_made(teacher, tiny_data, tmp_path) -> None:
    run = new_run(tmp_path / "run", lora(tiny_data, teacher, **{"steps": 3}))
    here(run)
    weights = run.pointer("last") / "weights.safetensors"
    words = f"init {weights}: is of a run with LoRA already; merge it with `vr export {weights} -o MERGED.safetensors`"
    recipe = tmp_path / "again.yaml"
    recipe.write_text(json.dumps(json.loads((run.path / "recipe.yaml").read_text()) | {"init": str(run.path)}))
    out = tmp_path / "runs"
    assert words in vr("train", recipe, f"out={out}", code=2).stderr
    assert not list(out.iterdir())
    with pytest.raises(ConfigError, match="is of a run with LoRA already"):
        here(new_run(tmp_path / "again", lora(tiny_data, weights)))
    # Without LoRA it is merged by itself.
    here(new_run(tmp_path / "whole", recipe_of(tiny_data, **ROFORMER | {"steps": 3, "init": str(weights)})))


def test_another_base_is_refused(teacher, tiny_data, tmp_path) -> None:
    run = new_run(tmp_path / "run", lora(tiny_data, teacher, **{"steps": 3}))
    here(run)
    weights = run.pointer("last") / "weights.safetensors"
    other = new_run(tmp_path / "other", recipe_of(tiny_data, **ROFORMER | {"steps": 1, "seed": 5}))
    here(other)
    (run.path / BASE).write_bytes((other.pointer("last") / "weights.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"holds only what was trained by LoRA, and the weights .* are not in base"):
        load_model(weights)
    (run.path / "recipe.yaml").write_text((run.path / "recipe.yaml").read_text().replace('"steps": 3', '"steps": 6'))
    with pytest.raises(WeightsError, match=r"base\.safetensors: not the weights that step 3 was trained beside"):
        here(RunFolder(run.path))


def test_what_needs_a_start_says_so(tiny_data) -> None:
    recipe = recipe_of(tiny_data, **ROFORMER | {"lora": {}})
    with pytest.raises(ConfigError, match="lora trains beside a model; add init=WEIGHTS"):
        create_run(recipe)


def test_what_starts_fresh_is_trained_whole(teacher, tiny_data, tmp_path) -> None:
    one = {"objective": ROFORMER["objective"] | {"stems": ["instrumental", "vocals"]}, "steps": 6, "init_part": "body",
           "init_reset": ["mask_estimators.1.*"]}  # fmt: skip
    with pytest.raises(ConfigError, match=r"lora: mask_estimators\.1.* starts fresh"):
        here(new_run(tmp_path / "run", lora(tiny_data, teacher, **one)))
    whole = new_run(tmp_path / "whole", lora(tiny_data, teacher, **one, **{"lora.whole": ["mask_estimators.1.*"]}))
    here(whole)
    names = set(read_newest(whole)[0].weights)
    assert {name.split(".")[1] for name in names if not is_factor(name)} == {"1"}
    load_model(whole.pointer("last") / "weights.safetensors")


@pytest.mark.parametrize(
    ("stems", "more"),
    [
        (["instrumental", "vocals"], {}),  # the other order
        (["instrumental"], {}),  # one of them
    ],
)
def test_heads_of_the_run_are_what_its_weights_have(stems, more, teacher, tiny_data, tmp_path) -> None:
    changes = {"objective": ROFORMER["objective"] | {"stems": stems}, "steps": 3, "init_part": "body", **more}
    run = new_run(tmp_path / "run", lora(tiny_data, teacher, **changes))
    here(run)
    model, meta = load_model(run.pointer("last") / "weights.safetensors")
    before, _ = load_model(teacher)
    assert meta.head.stems == tuple(stems)
    x = torch.randn(1, 2, 33, 8, dtype=torch.complex64)
    [(_, answer)], [(_, expected)] = model(x).items(), before(x).items()
    for place, stem in enumerate(stems):
        # Three steps move it a little; another stem's head says something else.
        off = (answer[:, place] - expected[:, ["vocals", "instrumental"].index(stem)]).abs().max()
        assert off < 0.3 * (expected[:, 0] - expected[:, 1]).abs().max()


def test_a_new_head_that_is_trained_whole_is_in_the_weights(teacher, tiny_data, tmp_path) -> None:
    one = new_run(tmp_path / "one", recipe_of(tiny_data, **ROFORMER | {
        "steps": 1, "objective": ROFORMER["objective"] | {"stems": ["vocals"]}}))  # fmt: skip
    here(one)
    changes = {"steps": 3, "init_part": "body", "lora.whole": ["mask_estimators.1.*"]}
    run = new_run(tmp_path / "run", lora(tiny_data, one.pointer("last") / "weights.safetensors", **changes))
    here(run)
    assert load_model(run.pointer("last") / "weights.safetensors")[1].head.stems == ("vocals", "instrumental")


def test_what_would_start_fresh_is_found_before_a_run_is_made(teacher, tiny_data, tmp_path) -> None:
    recipe = tmp_path / "reset.yaml"
    recipe.write_text(to_yaml(lora(tiny_data, teacher, **{"init_reset": ["mask_estimators.0.*"], "steps": 3})))
    told = vr("train", recipe, f"out={tmp_path / 'runs'}", code=2).stderr
    assert "lora: mask_estimators.0" in told
    assert "add it to lora.whole, such as mask_estimators.*" in told
    assert not list((tmp_path / "runs").iterdir())


def test_a_lost_base_is_made_again_only_where_it_is_the_same(teacher, tiny_data, tmp_path) -> None:
    init = tmp_path / "init.safetensors"
    init.write_bytes(teacher.read_bytes())
    run = new_run(tmp_path / "run", lora(tiny_data, init, **{"steps": 3}))
    here(run)
    (run.path / BASE).unlink()
    other = new_run(tmp_path / "other", recipe_of(tiny_data, **ROFORMER | {"steps": 1, "seed": 5}))
    here(other)
    init.write_bytes((other.pointer("last") / "weights.safetensors").read_bytes())
    (run.path / "recipe.yaml").write_text((run.path / "recipe.yaml").read_text().replace('"steps": 3', '"steps": 6'))
    with pytest.raises(WeightsError, match="not the weights that step 3 was trained beside"):
        here(RunFolder(run.path))
    assert not (run.path / BASE).exists()
    init.write_bytes(teacher.read_bytes())
    assert here(RunFolder(run.path)).how == "finished"


def test_an_export_never_takes_the_place_of_what_it_needs(teacher, tiny_data, tmp_path) -> None:
    run = new_run(tmp_path / "run", lora(tiny_data, teacher, **{"steps": 3}))
    here(run)
    told = vr("export", run.path, "-o", run.path / "base", "--replace", code=2).stderr
    assert "would be written over what is exported" in told
    load_model(run.pointer("last") / "weights.safetensors")


def test_the_plan_counts_what_travels(tiny_data, teacher) -> None:
    whole = arithmetic_of(recipe_of(tiny_data, **ROFORMER))
    part = arithmetic_of(lora(tiny_data, teacher))
    assert part.parameters == sum(2 * (8 + 24 + 8 + 8 + 2 * (8 + 32)) for _ in range(2))
    assert part.item_flop / 2 == whole.item_flop / 3
    again = arithmetic_of(lora(tiny_data, teacher, **{"model.recompute": True}))
    assert again.item_flop == 1.5 * part.item_flop
