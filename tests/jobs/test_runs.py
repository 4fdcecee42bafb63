import json
import multiprocessing
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.timings import DEFAULT_TIMINGS
from jobs.errors import DamagedRun, NotACheckpoint, RunExists, UnknownRun
from jobs.recipe import Recipe, TuneSpec
from jobs.runs.creation import create_run, refusal
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import require_resumable
from jobs.runs.lookup import list_runs, resolve_run, resolve_weights
from jobs.runs.provenance import PACKAGES, copy_source, read_origin, source_root
from jobs.runs.state import Notice, RunState, standing
from jobs.search.folder import create_search
from vr_core.errors import ConfigError, StorageError

SILENT_S = DEFAULT_TIMINGS.driver_silent_s


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    (tmp_path / "data").mkdir()
    return Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=100)


def with_checkpoint(run: RunFolder, step: int, *pointers: str) -> Path:
    folder = run.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    for name in ("weights.safetensors", "checkpoint.json"):
        (folder / name).touch()
    for pointer in pointers:
        (run.checkpoints / pointer).write_text(folder.name + "\n")
    return folder / "weights.safetensors"


def test_a_run_is_named_after_its_recipe_and_counts_repeats(recipe):
    first = create_run(recipe)
    assert first.id == f"line-{recipe.digest()}-1"
    first.write_state(state="finished", step=100)
    assert create_run(recipe, again=True).id == f"line-{recipe.digest()}-2"
    assert [run.id for run in list_runs(recipe.out)] == [f"line-{recipe.digest()}-{n}" for n in (1, 2)]
    assert [p.name for p in recipe.out.iterdir() if p.name.startswith(".")] == []


def test_the_folder_holds_the_recipe_with_absolute_paths_and_its_origin(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = create_run(recipe.model_copy(update={"data": Path("data"), "out": Path("runs")}))
    assert run.recipe() == recipe
    assert run.state().state == "pending"
    origin = json.loads(run.origin_file.read_text())
    assert origin["machines"] == {}
    assert origin["versions"]["ray"].startswith("2.60")
    head = subprocess.run(["git", "-C", str(source_root()), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert origin["commit"] == (head.stdout.strip() or None)


@pytest.mark.parametrize(
    ("state", "again", "said"),
    [
        ("finished", False, "add --again"),
        ("failed", False, "vr jobs resume line-1"),
        ("stopped", False, "vr jobs resume line-1"),
        ("pending", False, "vr jobs watch line-1"),
        ("running", False, "vr jobs stop line-1"),
        ("running", True, "vr jobs stop line-1"),
        ("finished", True, None),
        ("failed", True, None),
    ],
)
def test_what_stands_against_the_same_recipe(state, again, said):
    found = refusal([("line-1", RunState(state=state, step=7, steps=100))], again)
    assert (found is None) == (said is None)
    assert found is None or said in found


def test_other_data_another_start_or_another_value_is_another_run(recipe, tmp_path):
    create_run(recipe)
    with pytest.raises(RunExists):
        create_run(recipe)
    (tmp_path / "other").mkdir()
    assert create_run(recipe.model_copy(update={"data": tmp_path / "other"})).id.endswith("-2")
    assert create_run(recipe.model_copy(update={"seed": 1})).id.endswith("-1")


def test_numbers_of_other_folders_are_not_given_again(recipe):
    stem = f"line-{recipe.digest()}-"
    assert create_run(recipe, reserved=[f"{stem}3", f"{stem}x", "other-12345678-9"]).id == f"{stem}4"


@pytest.mark.parametrize("create", [create_run, create_search])
def test_an_out_that_cannot_be_written_is_one_line(recipe, tmp_path, create):
    (tmp_path / "file").touch()
    changes = {"out": tmp_path / "file" / "runs", "tune": TuneSpec(space={"optim.lr": (1e-3, 1e-4)}, grace_steps=100)}
    for out in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(StorageError, match=r"out .*file.*: cannot be written \(.*\); give another out=FOLDER"):
            create(recipe.model_copy(update={**changes, "out": out}))


def test_the_plan_is_confirmed_before_anything_is_written(recipe):
    def no(_: Recipe) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_run(recipe, confirm=no)
    assert not recipe.out.exists()


def _create(
    recipe: Recipe, start: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[str]"
) -> None:
    start.wait()
    try:
        results.put(create_run(recipe).id)
    except RunExists:
        results.put("refused")


def test_of_two_that_ask_at_once_one_gets_the_run(recipe):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_create, args=(recipe, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == sorted([f"line-{recipe.digest()}-1", "refused", "refused", "refused"])
    assert len(list(recipe.out.iterdir())) == 1


def test_missing_data_and_a_bad_start_are_refused_before_anything_is_written(recipe, tmp_path):
    for changes, part in (
        ({"data": tmp_path / "no"}, "is not a folder"),
        ({"data": None}, "no data set"),
        ({"needs_init": True}, "needs a start"),
    ):
        with pytest.raises(ConfigError, match=part):
            create_run(recipe.model_copy(update=changes))
    with pytest.raises(UnknownRun, match="no such run"):
        create_run(recipe.model_copy(update={"init": Path("nothing-here")}))
    assert not recipe.out.exists() or list(recipe.out.iterdir()) == []


def test_a_start_is_fixed_to_the_weights_it_means_today(recipe):
    pretrained = create_run(recipe)
    weights = with_checkpoint(pretrained, 40, "best", "last")
    run = create_run(recipe.model_copy(update={"seed": 1, "init": Path(pretrained.id)}))
    assert run.recipe().init == weights


def test_weights_of_a_run_are_its_best_else_its_last(recipe):
    run = create_run(recipe)
    with pytest.raises(NotACheckpoint, match="no checkpoint yet"):
        resolve_weights(run.path)
    last = with_checkpoint(run, 20, "last")
    assert resolve_weights(run.path) == last
    best = with_checkpoint(run, 10, "best")
    assert resolve_weights(run.path) == best
    assert resolve_weights(last.parent) == last
    assert resolve_weights(last) == last
    assert run.last_step() == 20


def test_damaged_and_foreign_checkpoints_are_named(recipe, tmp_path):
    run = create_run(recipe)
    weights = with_checkpoint(run, 20, "last")
    (weights.parent / "checkpoint.json").unlink()
    for path, part in (
        (run.path, "incomplete"),
        (weights.parent, "checkpoint.json is missing"),
        (tmp_path, "not a checkpoint of ours"),
        (tmp_path / "no", "does not exist"),
        (run.recipe_file, "not a checkpoint of ours"),
    ):
        with pytest.raises(NotACheckpoint, match=part):
            resolve_weights(path)
    for damage in (b"", b"\xff\xfe", b"../../etc", b"step-1"):
        (run.checkpoints / "last").write_bytes(damage)
        with pytest.raises(NotACheckpoint, match="damaged"):
            resolve_weights(run.path)


def test_runs_are_found_by_name_and_by_folder(recipe):
    run = create_run(recipe)
    assert resolve_run(run.id, recipe.out).path == run.path
    assert resolve_run(str(run.path), Path("elsewhere")).path == run.path
    with pytest.raises(UnknownRun, match=f"did you mean {run.id}"):
        resolve_run(run.id[:-3] + "x-1", recipe.out)


@pytest.mark.parametrize("damage", [None, b"", b"{", b"[]", b'{"state": "asleep", "steps": 3}', b"\xff"])
def test_a_damaged_state_is_said(recipe, damage):
    run = create_run(recipe)
    run.state_file.unlink() if damage is None else run.state_file.write_bytes(damage)
    with pytest.raises(DamagedRun, match="state.json"):
        run.state()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"state": "asleep", "steps": 3}', b"\xff"])
def test_a_run_whose_state_is_damaged_can_be_taken_up_again(recipe, damage):
    """The defect: its checkpoints were of no use any more."""
    run = create_run(recipe)
    with_checkpoint(run, 20, "last")
    run.write_state(state="running", attempt=run.begin_attempt(), step=23)
    run.state_file.write_bytes(damage)
    with pytest.raises(DamagedRun, match=f"`vr jobs resume {run.path}` mends it"):
        run.state()
    run.mend_state()
    mended = run.state()
    assert (mended.state, mended.step, mended.steps, mended.attempt) == ("failed", 20, recipe.steps, 1)
    require_resumable(run, SILENT_S)
    run.mend_state()
    assert run.state() == mended, "one that is whole is left as it is"


@given(st.lists(st.sampled_from(["pending", "running", "failed", "stopped"]), min_size=1, max_size=5))
def test_states_survive_writing(tmp_path_factory, states):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.state_file.write_text(json.dumps({"state": "pending", "steps": 9}))
    for i, state in enumerate(states):
        run.write_state(state=state, step=i)
        assert (run.state().state, run.state().step, run.state().steps) == (state, i, 9)
    assert [p.name for p in run.path.iterdir()] == ["state.json"]


STATES = st.sampled_from(["pending", "running", "finished", "failed", "stopped"])


@given(st.lists(st.tuples(st.booleans(), STATES), min_size=1, max_size=6))
def test_what_was_said_last_stands_and_only_the_driver_writes_the_state(tmp_path_factory, said):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.state_file.write_text(json.dumps({"state": "pending", "steps": 9}))
    for number, (by_driver, state) in enumerate(said):
        written = run.state_file.read_bytes()
        if by_driver:
            run.write_state(state=state, why=f"driver {number}", step=number)
        else:
            assert run.give_notice(state, f"notice {number}") == run.state()
            assert run.state_file.read_bytes() == written
        found = run.state()
        assert (found.state, found.why) == (state, f"{'driver' if by_driver else 'notice'} {number}")
        assert found.step == max((n for n in range(number + 1) if said[n][0]), default=0)


def test_a_notice_is_about_the_state_that_it_was_given_for():
    written = RunState(state="running", steps=9, step=3, attempt=1, user_error=True, updated_s=5.0)
    notice = Notice(state="stopped", why="stopped by the user", of_updated_s=5.0, updated_s=7.0)
    stopped = RunState(state="stopped", steps=9, step=3, attempt=1, why="stopped by the user", updated_s=7.0)
    assert standing(written, notice) == stopped
    assert standing(written, None) == written
    later = written.model_copy(update={"updated_s": 6.0})
    assert standing(later, notice) == later, "a driver that writes after all is believed"
    set_back = written.model_copy(update={"updated_s": 4.0})
    assert standing(set_back, notice) == set_back, "also where its clock was set back"


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[]", b'{"state": "asleep"}'])
def test_a_notice_that_cannot_be_read_says_nothing(recipe, damage):
    run = create_run(recipe)
    run.notice_file.write_bytes(damage)
    assert run.state().state == "pending"


def test_a_new_attempt_takes_the_run_over_and_forgets_the_wish_to_stop(recipe):
    run = create_run(recipe)
    assert run.newest_attempt() == 0
    run.stop_file.touch()
    assert [run.begin_attempt() for _ in range(3)] == [1, 2, 3]
    assert run.newest_attempt() == 3
    assert not run.stop_file.exists()


def test_a_finished_run_is_not_resumed(recipe):
    run = create_run(recipe)
    run.write_state(state="finished")
    with pytest.raises(RunExists, match="--again"):
        require_resumable(run, SILENT_S)


def test_the_source_of_a_run_is_the_four_packages_and_nothing_else(tmp_path):
    copy_source(tmp_path / "source")
    assert sorted(p.name for p in (tmp_path / "source").iterdir()) == sorted(PACKAGES)
    copied = (tmp_path / "source" / "jobs" / "cli.py").read_bytes()
    assert copied == (source_root() / "jobs" / "cli.py").read_bytes()
    assert not list((tmp_path / "source").rglob("__pycache__"))
    assert sum(p.stat().st_size for p in (tmp_path / "source").rglob("*")) < 10_000_000


def test_the_dirty_flag_and_commit_of_an_environment_in_somebody_elses_repository_are_unknown(tmp_path):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    origin = read_origin(installed)
    assert (origin["commit"], origin["dirty"]) == (None, None)


@pytest.mark.parametrize(
    ("old", "waiting_for"),
    [({"why": "waits: no machine"}, "machines"), ({"why": "starts again"}, None), ({}, None)],
)
def test_what_a_run_waits_for_is_a_field_and_in_an_old_state_what_its_words_say(recipe, old, waiting_for):
    run = create_run(recipe)
    run.state_file.write_text(json.dumps({"state": "pending", "steps": 100, **old}))
    assert run.state().waiting_for == waiting_for
    assert run.write_state(step=1).waiting_for == waiting_for
    run.write_state(why="waits: for whatever it be")
    assert run.state().waiting_for is None, "words of today are words"
