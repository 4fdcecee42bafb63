"""Trials of benches, without any training: what is missing, what a budget allows, and tables of lines."""

from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
from torch.nn import BatchNorm2d

from jobs.recipes.shipped import read_recipe
from tests.bench import choices, finetuning, zoo
from tests.bench.trials import Trial, carry_out, missing, read_lines
from tests.jobs.songs_recipes import songs_recipes
from vr_core.models.registry import build

ROOT = Path(__file__).parent.parent
ONE_TRIAL = """
import json, sys
if sys.argv[1] == "0":
    sys.exit(3)
print("on the way")
print(json.dumps({"db": int(sys.argv[1])}))
"""
COSTS = {
    "what": "costs", "recipe": "songs-unet", "digest": "1", "parameters": 2_000_000, "gflop_per_s": 0.25,
    "step_peak_bytes": 300_000_000, "step_core_s": 0.5, "loop_step_core_s": 0.9,
}  # fmt: skip


def test_what_has_a_line_is_not_missing_and_the_order_stays() -> None:
    trials = [Trial({"way": way, "seed": seed}, ()) for seed in (1, 2) for way in ("a", "b")]
    lines = [{"way": "b", "seed": 1, "db": 2.0}, {"way": "a", "seed": 3, "db": 2.0}]
    assert [tuple(trial.key.values()) for trial in missing(trials, lines)] == [("a", 1), ("a", 2), ("b", 2)]


def test_each_trial_appends_its_line_and_a_failure_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results" / "lines.jsonl"
    (tmp_path / "one_trial.py").write_text(ONE_TRIAL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    trials = [Trial({"seed": seed}, (str(seed),)) for seed in (0, 1, 2)]
    assert carry_out("one_trial", results, trials) == trials[:1]
    assert {(line["seed"], line["db"]) for line in read_lines(results)} == {(1, 1), (2, 2)}
    assert all({"date", "hardware", "commit"} <= line.keys() for line in read_lines(results))
    before = results.read_text()
    assert carry_out("one_trial", results, trials[1:]) == []
    assert results.read_text() == before


def test_a_budget_gives_whole_steps_and_a_warm_up_that_fits_them() -> None:
    assert [zoo.steps_within(450, step_s) for step_s in (0.9, 1.01, 1000)] == [500, 445, 1]
    recipe = read_recipe("songs-unet", ["steps=1000", "optim.warmup_steps=100"])
    assert [zoo.warm_up_of(recipe, steps) for steps in (1000, 300, 299, 50)] == [100, 100, 30, 5]


def test_a_recipe_of_other_keys_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = [
        zoo.training_recipe("songs-unet", 10, 1, tmp_path, "runs", *more).out
        for more in ((), ("optim.lr=1e-4",), ("optim.lr=2e-4",), ("optim.lr=1e-4",))
    ]
    assert len(set(folders)) == 3
    assert folders[1] == folders[3]


def test_the_readme_has_the_table_of_the_lines() -> None:
    """Where a recipe has changed, its row is out of date: `python -m tests.bench.zoo --table` prints what holds."""
    table = zoo.table(zoo.read_lines(zoo.RESULTS), zoo.shipped_digests())
    assert "\n\n{}\n\n".format("\n".join(table)) in (ROOT / "vr_core/README.md").read_text()


def test_a_training_takes_what_its_costs_allow() -> None:
    trial = zoo.training_of(COSTS, 2, (), "music", "work")
    assert trial.words == ("music", "work", "--one", "training", "songs-unet", "2", "500")
    assert trial.key == {
        "what": "training", "recipe": "songs-unet", "digest": "1", "seed": 2, "budget_core_s": 450, "steps": 500
    }  # fmt: skip


def test_a_training_near_to_what_new_costs_allow_counts_and_one_that_is_not_is_repeated() -> None:
    lines = [
        {"what": "training", "recipe": "songs-unet", "digest": "1", "seed": seed, "budget_core_s": 450, "steps": steps}
        for seed, steps in ((1, 451), (1, 500), (1, 449), (2, 449), (3, 550))
    ]
    trials = [zoo.training_of(COSTS, seed, lines) for seed in (1, 2, 3)]
    assert [trial.key["steps"] for trial in trials] == [500, 500, 550]
    assert missing(trials, lines) == [trials[1]]
    counting = [zoo.trained(COSTS, seed, lines) for seed in (1, 2, 3, 4)]
    assert [line and line["steps"] for line in counting] == [500, 449, 550, None]


def test_the_table_has_the_recipes_as_they_are_and_says_what_is_not_known() -> None:
    small = COSTS | {"recipe": "songs-plain-stack", "parameters": 1_000_000}
    score = {
        "what": "training",
        "recipe": "songs-unet",
        "digest": "1",
        "seed": 1,
        "improvement_db": 6.0,
        "budget_core_s": 450,
        "steps": 400,
    }
    speed = {"what": "separation", "recipe": "songs-unet", "digest": "1", "times_real_time_1": 20.04}
    lines = [
        speed | {"times_real_time_2": 30.0}, COSTS, small, COSTS | {"digest": "0", "parameters": 1}, score,
        score | {"seed": 2, "improvement_db": 7.0, "steps": 500}, score | {"recipe": "songs-plain-stack"},
        score | {"digest": "0", "improvement_db": 9.0},
    ]  # fmt: skip
    _, ruled, *rows = zoo.table(lines, {"songs-unet": "1", "songs-plain-stack": "1"})
    assert rows == [
        "| `songs-plain-stack` | 1,000,000 | 0.25 | 300 | 0.50 | – | – | 360 | 6.00 | – | – |",
        "| `songs-unet` | 2,000,000 | 0.25 | 300 | 0.50 | 20.0 | 30.0 | 405 | 6.00 | 7.00 | 6.50 |",
    ]
    assert {line.count("|") for line in (ruled, *rows)} == {12}


def test_every_recipe_has_a_digest_of_its_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = zoo.shipped_digests()
    assert list(digests) == songs_recipes()
    assert len(set(digests.values())) == len(digests)
    monkeypatch.setattr(zoo, "read_lines", lambda _: [COSTS | {"digest": digests["songs-unet"]}])
    zoo.main(["--table"])
    assert "`songs-unet`" in capsys.readouterr().out


def test_the_table_of_choices_has_the_ways_whose_seeds_are_all_there() -> None:
    [first, *_], lines = choices.trials_of("music", "work"), []
    assert first.words == ("music", "work", "--one", "norm", "item", "1")
    for trial in choices.trials_of()[:3]:
        lines.append(trial.key | {"improvement_db": 5.0 + trial.key["seed"], "core_s": 100.0})
    assert choices.table(lines)[2:] == ["| norm | item | 6.00 | 7.00 | 6.50 | 100 |"]
    assert choices.table([line | {"digest": "of other settings"} for line in lines])[2:] == []


def test_ways_with_other_keys_have_other_digests() -> None:
    positions = choices.CHOICES["positions"]
    assert len({choices.digest_of(positions, way) for way in positions.ways}) == len(positions.ways)


def test_every_way_of_a_choice_is_a_recipe_and_the_first_is_as_shipped() -> None:
    for choice in choices.CHOICES.values():
        shipped, (first, *others) = read_recipe(choice.recipe), choice.ways.values()
        assert first == ()
        assert all(changed == () or read_recipe(choice.recipe, changed) != shipped for changed in others)
        assert all(changed or way in choice.patches for way, changed in list(choice.ways.items())[1:])


def test_a_norm_over_a_batch_is_taken_in_that_process_alone() -> None:
    unet = read_recipe("songs-unet").model
    with ExitStack() as patches:
        choices.CHOICES["norm"].patches["batch"](patches)
        assert any(isinstance(module, BatchNorm2d) for module in build(unet, 64).modules())
    assert not any(isinstance(module, BatchNorm2d) for module in build(unet, 64).modules())


@pytest.mark.parametrize("bench", [choices, finetuning, zoo])
def test_a_bench_of_trials_prints_its_table_alone(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "carry_out", lambda *_: pytest.fail("asked for the table alone"))
    bench.main(["--table"])
    assert capsys.readouterr().out.startswith("| ")
    with pytest.raises(SystemExit):
        bench.main([])
    assert "give MUSIC and WORK" in capsys.readouterr().err
