"""Which trials a search has, what it refuses before anything runs, its table and its best recipe."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import DamagedRun, RunExists, UnknownRun
from jobs.recipe import Recipe
from jobs.runs.summary import ProgressWriter, read_summary
from jobs.search.folder import Search, TrialRow, best, create_search, end_live_trials, resolve_search, shown_trial
from jobs.search.follower import Follower
from jobs.search.space import plan_trials, sample
from jobs.search.tune import configurations
from tests.opened import opened_files
from vr_core.config import load, override, plain, validate
from vr_core.errors import ConfigError

TINY: dict[str, Any] = {
    "name": "tiny",
    "steps": 40,
    "optim": {"warmup_steps": 0},
    "validation": {"every_steps": 5},
    "tune": {
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.blocks": [1, 2]},
        "trials": 6,
        "grace_steps": 5,
    },
}


def recipe(space: Any = None, **changes: Any) -> Recipe:
    raw = override(TINY, changes if space is None else {**changes, "tune.space": space})
    return validate(Recipe, raw, "test")


@given(st.integers(1, 40), st.integers(0, 99), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_points_of_lists_never_repeat_and_cover_the_product(trials, seed, sizes):
    space = {f"k{i}": tuple(range(size)) for i, size in enumerate(sizes)}
    points = sample(space, trials, seed)
    product = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    assert len(points) == min(trials, len(product))
    assert len({tuple(point.items()) for point in points}) == len(points)
    assert all(point in product for point in points)
    assert points == sample(space, trials, seed)


@given(st.integers(1, 30), st.integers(0, 99), st.floats(-5, 5), st.floats(0.1, 3))
def test_every_part_of_a_range_is_used_once(trials, seed, low, width):
    uniform, log = (round(low, 2), round(low, 2) + round(width, 1)), (1e-4, 1e-1)
    space = {"u": {"uniform": uniform}, "l": {"loguniform": log}, "c": ("a", "b", "c")}
    points = sample(space, trials, seed)
    assert len(points) == trials
    # Rounding to three digits may move a point over an edge: the ranks must still be one to a part.
    for rank, value in enumerate(sorted(point["u"] for point in points)):
        share = (value - uniform[0]) / (uniform[1] - uniform[0])
        assert rank / trials - 0.06 <= share <= (rank + 1) / trials + 0.06
        assert uniform[0] <= value <= uniform[1]
    for rank, value in enumerate(sorted(point["l"] for point in points)):
        decades = 10 ** (-4 + 3 * rank / trials), 10 ** (-4 + 3 * (rank + 1) / trials)
        assert decades[0] * 0.99 <= value <= decades[1] * 1.01
    uses = [[point["c"] for point in points].count(choice) for choice in "abc"]
    assert max(uses) - min(uses) <= 1


def test_a_trial_is_its_recipe_with_the_values_and_without_the_search():
    base = recipe()
    plans = plan_trials(base)
    assert [plan.id for plan in plans] == ["0000", "0001", "0002", "0003", "0004", "0005"]
    for plan in plans:
        assert set(plan.values) == {"optim.lr", "model.blocks"}
        wanted = override({**plain(base), "tune": None}, plan.values)
        assert plain(plan.recipe) == wanted
    assert plans != plan_trials(recipe(seed=1))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"optim.lrr": [1e-3]}, r"optim\.lrr: unknown key \(did you mean optim\.lr\?\)"),
        ({"optim.lr": [1e-3, -1.0]}, r"optim\.lr=-1\.0: optim\.lr: .*greater than 0"),
        ({"model.blocks": {"uniform": [1, 4]}}, r"model\.blocks: .*integer"),
        ({"model.blocks": [1, "two"]}, r"model\.blocks: .*'two'"),
        ({"model.heads": [3]}, r"model\.heads=3: model: width must be a multiple of heads"),
        ({"optim.lr": []}, r"optim\.lr: the list of choices is empty"),
        ({"optim.lr": [1e-3, 1e-3]}, r"optim\.lr: a choice stands twice"),
        ({"optim.lr": {}}, r"optim\.lr: expected a list of choices, or one of"),
        ({"optim.lr": {"uniform": [2e-3, 1e-3]}}, r"optim\.lr: uniform needs low < high, got \[0\.002, 0\.001\]"),
        ({"optim.lr": {"loguniform": [0.0, 1e-3]}}, r"optim\.lr: loguniform needs low > 0, got 0"),
        ({"steps": [10, 20]}, r"steps: all trials share steps"),
        ({"validation.items": [4, 8]}, r"validation\.items: all trials share validation"),
        ({"optim": ["a"], "optim.lr": [1e-3]}, r"optim\.lr: optim is searched as well"),
        ({}, r"tune\.space: missing"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_and_the_key_named(space, said):
    with pytest.raises(ConfigError, match=said):
        plan_trials(recipe(space))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune": None}, r"tune\.space: missing"),
        ({"workers.count": 2}, r"set workers\.count=1"),
        ({"tune.grace_steps": 41}, r"tune\.grace_steps: 41 is more than steps 40"),
        ({"validation.every_steps": 40}, "no bad trial could be stopped"),
        ({"sync": "diloco", "checkpoint.own_disk_every_s": 5}, r"tune\.space: .*own_disk_every_s has no effect"),
    ],
)
def test_a_recipe_that_cannot_be_searched_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        plan_trials(recipe(**changes))


@pytest.fixture
def search(tmp_path: Path) -> Search:
    (tmp_path / "data").mkdir()
    return create_search(recipe(data=str(tmp_path / "data"), out=str(tmp_path / "runs")))


def scored(search: Search, trial: str, state: str, losses: dict[int, float]) -> None:
    run = search.trial(trial)
    lines = [json.dumps({"kind": "validation", "step": step, "loss": loss}) for step, loss in losses.items()]
    run.metrics_file.write_text("\n".join(lines) + "\n")
    run.write_state(state=state, step=max(losses))


def test_the_best_recipe_is_that_of_the_least_loss_at_the_furthest_step(search):
    assert search.write_best() is None
    scored(search, "0001", "finished", {20: 0.2, 40: 0.31})
    scored(search, "0003", "finished", {20: 0.5, 40: 0.3})
    scored(search, "0004", "stopped", {20: 0.1})
    scored(search, "0005", "failed", {40: 0.05})
    row = search.write_best()
    assert (row.id, row.score, row.step) == ("0003", 0.3, 40)
    written = load(Recipe, search.best_file)
    assert written == search.trial("0003").recipe()
    assert written.tune is None
    assert written.optim.lr == row.values["optim.lr"]
    assert written.model.blocks == row.values["model.blocks"]


def test_a_score_that_is_no_number_is_no_score(search):
    scored(search, "0000", "finished", {40: float("nan")})
    assert search.row("0000").score is None
    assert best(search.rows()) is None


@pytest.mark.parametrize("told", [False, True], ids=["of an earlier version", "with a summary"])
def test_a_score_stays_however_many_steps_come_after_it(search, told):
    """The defect: it was gone from table and cards after some 230 steps, and from an interrupted search for good."""
    run = search.trial("0000")
    steps = [json.dumps({"kind": "step", "step": step, "loss": 1.0, "pad": "x" * 100}) for step in range(6, 2000)]
    run.metrics_file.write_text("\n".join(['{"kind": "validation", "step": 5, "loss": 0.25}', *steps, ""]))
    run.write_state(state="running", step=5)
    if told:
        ProgressWriter(run, 40).tell()
        with opened_files() as opened:
            search.row("0000")
        assert str(run.summary_file) in opened
    assert search.row("0000").score == 0.25
    end_live_trials(search)
    assert (search.row("0000").state, search.row("0000").score) == ("pending", 0.25)


def test_a_trial_is_told_by_its_follower_and_once_more_where_its_search_was_interrupted(search):
    run, follower = search.trial("0000"), Follower(search, lambda rows: None, with_cards=False)
    follower.began("0000")
    with run.metrics_file.open("a") as file:
        for step, loss in ((5, 0.25), (6, 0.125)):
            file.write(json.dumps({"kind": "validation", "step": step, "loss": loss}) + "\n")
            file.flush()
            if step == 5:
                follower.reported("0000", step)
                assert read_summary(run).validation.loss == loss
    end_live_trials(search)
    assert search.row("0000").score == 0.125


def test_the_table_follows_the_trials_folders(search):
    assert [row.state for row in search.rows()] == ["pending"] * 6
    scored(search, "0002", "running", {10: 0.25})
    with search.trial("0002").metrics_file.open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 13, "loss": 0.2}) + "\n")
    row = search.row("0002")
    assert (row.state, row.step, row.score) == ("running", 13, 0.25)
    line = shown_trial(row)
    for part in ("trial 0002", f"optim.lr={row.values['optim.lr']}", "model.blocks=", "step 13/40", "score 0.25"):
        assert part in line
    assert search.write_rows() == search.rows()
    assert json.loads(search.trials_file.read_text())["trials"][2]["step"] == 13

    scored(search, "0003", "stopped", {10: 0.3})
    end_live_trials(search)
    row = search.row("0002")
    assert (row.state, row.step, row.why) == ("pending", 13, "the search was interrupted")
    assert search.row("0003").state == "stopped"


def test_the_same_search_is_made_once_and_again_on_demand(search):
    same = search.recipe()
    with pytest.raises(RunExists, match=f"{search.id} is the same search; go on with `vr tune --resume"):
        create_search(same)
    again = create_search(same, again=True)
    assert again.id == search.id[:-1] + "2"
    assert resolve_search(again.id, same.out).path == again.path
    assert resolve_search(str(search.path), Path("nowhere")).path == search.path
    with pytest.raises(UnknownRun, match=f"nothing: no such search .*{search.id}"):
        resolve_search("nothing", same.out)
    assert not [path for path in same.out.iterdir() if path.name.startswith(".")]


def test_nothing_is_made_for_a_space_that_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    wrong = recipe({"optim.lr": [-1.0]}, data=str(tmp_path / "data"), out=str(tmp_path / "runs"))
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        create_search(wrong)
    assert not (tmp_path / "runs").exists()


def test_the_row_that_got_furthest_wins_ties_by_its_number():
    rows = [TrialRow(id=i, values={}, steps=9, step=9, score=1.0, state="finished") for i in ("0002", "0001")]
    assert best(rows).id == "0001"


@pytest.mark.parametrize("content", ['{"rows": []}', "", "[" * 9999, '{"trials": [{"id": "../../x"}]}'])
def test_a_damaged_table_is_made_anew_of_the_recipe_and_the_trials(search, content, capfd):
    search.trial("0002").write_state(state="running", step=13)
    before = search.rows()
    search.trials_file.write_text(content)
    assert search.rows() == before
    assert "its table is made anew of its trials" in capfd.readouterr().err
    search.write_rows()
    assert search.rows() == before
    assert capfd.readouterr().err.count("made anew") == 1, "by the writing; then it is whole"


def test_a_trial_computes_what_the_searchs_recipe_says_and_no_other_trial_is_begun(search):
    whole = search.recipe()
    planned = {plan.id: plan.recipe for plan in plan_trials(whole)}
    for row in search.rows():  # what lies in its folder does not count
        search.trial(row.id).recipe_file.write_text("name: his\n")
    for found in configurations(search, whole, list(planned)):
        trial = Path(found["folder"])
        assert trial.parent == search.trials
        assert validate(Recipe, json.loads(found["recipe"]), "trial") == planned[trial.name]
    with pytest.raises(DamagedRun, match=r"trials.json: damaged \(trial 9999 is not in .*vr tune --resume"):
        configurations(search, whole, [*planned, "9999"])
