"""Starts of a run's workers: whoever began last writes, and an older one that comes back has nothing to damage."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.checkpoints.format import read_newest
from jobs.checkpoints.writing import write_part
from jobs.errors import NewerStart
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import MetricsLog, read_metrics
from jobs.runs.progress import MetricsReader, last_record, last_step
from jobs.runs.starts import BEFORE, Start, begin_start, read_start, require_newest, starts
from jobs.runs.summary import ProgressWriter
from tests.jobs.checkpoints import write_example
from vr_core.errors import StorageError


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_starts_are_ordered_by_their_numbers_and_read_back(pairs: list[tuple[int, int]]) -> None:
    found = sorted(Start(*pair) for pair in pairs)
    assert [(start.attempt, start.number) for start in found] == sorted(pairs)
    assert [read_start(str(start)) for start in found] == found


@pytest.mark.parametrize("name", ["", "1", "1.", "1.2.3", "18c3f0aa12", "99", "1.x"])
def test_other_names_are_no_starts(name: str) -> None:
    assert read_start(name) is None


def test_a_start_that_nobody_has_counted_is_the_next_of_the_newest_attempt(run: RunFolder) -> None:
    assert [begin_start(run), begin_start(run)] == [Start(0, 1), Start(0, 2)]
    run.begin_attempt()
    assert [begin_start(run), begin_start(run)] == [Start(1, 1), Start(1, 2)]
    assert begin_start(run, Start(2, 1)) == Start(2, 1)
    assert begin_start(run) == Start(2, 2), "later than all, also where its attempt's folder is not seen"
    assert starts(run)[-1] == Start(2, 2)


def test_a_start_that_begins_late_or_twice_does_not_begin(run: RunFolder) -> None:
    begin_start(run, Start(1, 2))
    with pytest.raises(NewerStart, match=r"start 1\.2 has begun since start 1\.1"):
        begin_start(run, Start(1, 1))
    with pytest.raises(StorageError, match="File exists"):
        begin_start(run, Start(1, 2))
    require_newest(run, Start(1, 2))
    with pytest.raises(NewerStart):
        require_newest(run, BEFORE)


def test_a_damaged_first_line_costs_no_step_of_this_start_or_of_those_before(run: RunFolder) -> None:
    """It alone says what counts of the others; then they count up to where this start's own steps begin."""
    with MetricsLog(run, begin_start(run), 0, tensorboard=False) as first:
        for step in range(1, 8):
            first.write("step", step, loss=1.0)
    with MetricsLog(run, begin_start(run), 5, tensorboard=False) as second:
        for step in range(6, 10):
            second.write("step", step, loss=2.0)
    before = list(read_metrics(run))
    [file] = run.metrics.glob("*.2.jsonl")
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    assert list(read_metrics(run)) == before
    assert [(line["step"], line["loss"]) for line in before] == [(s, 1.0) for s in range(1, 6)] + [
        (s, 2.0) for s in range(6, 10)
    ]


def test_a_rank_0_that_comes_back_changes_no_metrics(run: RunFolder) -> None:
    """The defect: it cut the one file to what it had written itself, within its retry of a quarter of an hour."""
    old = MetricsLog(run, begin_start(run), 0, tensorboard=False)
    for step in range(1, 8):
        old.write("step", step, loss=float(step))
    old.flush()
    old.write("step", 8, loss=8.0)  # kept back, as where its share is away
    with MetricsLog(run, begin_start(run), 5, tensorboard=False) as new:
        for step in range(6, 10):
            new.write("step", step, loss=-float(step))
        new.flush()
        files = {file: file.read_bytes() for file in run.metrics.iterdir()}
        before = list(read_metrics(run))
        old.flush()
        old.write("validation", 8, loss=0.0)
        assert list(read_metrics(run)) == before
        assert [file for file, content in files.items() if not file.read_bytes().startswith(content)] == []
    assert [(line["step"], line["loss"]) for line in before] == [
        *((step, step) for step in range(1, 6)), *((step, -step) for step in range(6, 10)),
    ]  # fmt: skip
    assert last_record(run, "validation") is None


def test_a_rank_0_that_comes_back_changes_no_checkpoint(run: RunFolder) -> None:
    """The defect: it removed the draft of the new start, and pointed `last` and `best` at its own."""
    old, new = begin_start(run), None
    write_example(run, 4, 1.0, start=old)
    (run.checkpoints / f".step-00000008.{old}").mkdir()  # being written when its network was cut
    new = begin_start(run)
    write_example(run, 8, 2.0, loss=0.5, best=True, start=new)
    draft = run.checkpoints / f".step-00000012.{new}"
    draft.mkdir()
    before = {path.relative_to(run.path): path.is_file() and path.read_bytes() for path in run.path.rglob("*")}
    assert not (run.checkpoints / f".step-00000008.{old}").exists(), "what an earlier start has left goes"
    for step in (8, 9):
        with pytest.raises(NewerStart, match=f"start {new} has begun since start {old}"):
            write_example(run, step, 3.0, loss=0.1, best=True, start=old)
    after = {path.relative_to(run.path): path.is_file() and path.read_bytes() for path in run.path.rglob("*")}
    assert after == before
    checkpoint, _ = read_newest(run)
    assert checkpoint is not None
    assert checkpoint.row.step == 8


def test_a_start_that_begins_while_a_checkpoint_is_written_keeps_it_out(run: RunFolder) -> None:
    old = begin_start(run)
    with pytest.raises(NewerStart):
        write_example(run, 4, 1.0, start=old, while_written=lambda: begin_start(run))
    assert not list(run.checkpoints.glob("step-*"))
    assert not (run.checkpoints / "last").exists()


def test_a_start_that_goes_on_writing_has_no_part_in_the_draft_of_a_newer_one(run: RunFolder) -> None:
    def begins() -> None:
        write_part(run, 4, begin_start(run), 1, {"own": torch.ones(1)})

    with pytest.raises(NewerStart):
        write_example(run, 4, 1.0, start=begin_start(run), while_written=begins)
    [part] = run.checkpoints.glob(".step-*/worker-1.pt")
    assert sorted(file.name for file in part.parent.iterdir()) == ["worker-1.pt", "worker-1.sha256"]


def test_what_other_workers_of_this_start_have_written_already_stays(run: RunFolder) -> None:
    start = begin_start(run)
    write_part(run, 4, start, 1, {"own": torch.ones(1)})
    write_example(run, 4, 1.0, start=start)
    assert (run.checkpoints / "step-00000004" / "worker-1.pt").is_file()


def test_drafts_of_earlier_versions_go(run: RunFolder) -> None:
    (run.checkpoints / ".step-00000004.18c3f0aa12").mkdir(parents=True)
    write_example(run, 8, 2.0, start=begin_start(run))
    assert not list(run.checkpoints.glob(".*"))


def test_metrics_of_an_earlier_version_are_where_the_curve_begins(run: RunFolder) -> None:
    lines = "".join(f'{{"kind": "step", "step": {step}, "loss": {step}.0}}\n' for step in range(1, 8))
    run.metrics_file.write_text(lines + '{"kind": "st')
    assert [line["step"] for line in read_metrics(run)] == list(range(1, 8))
    assert last_step(run) == 7
    start = begin_start(run)
    assert last_step(run) == 7, "until it says what counts"
    with MetricsLog(run, start, 5, tensorboard=False) as metrics:
        metrics.write("step", 6, loss=6.5)
    assert [(line["step"], line["loss"]) for line in read_metrics(run)] == [*((n, n) for n in range(1, 6)), (6, 6.5)]
    assert (run.metrics / "0.0.jsonl").read_text().startswith(lines)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.floats(0, 1)),
        st.tuples(st.just("write"), st.integers(0, 3)),
        st.tuples(st.just("validate"), st.integers(0, 3)),
        st.tuples(st.just("look"), st.just(0)),
    ),
    max_size=30,
)  # fmt: skip


@given(EVENTS)
def test_what_counts_is_what_a_single_writer_would_have_left(tmp_path_factory: pytest.TempPathFactory, events) -> None:
    """Starts from any earlier step, and writers of any start that go on; the reference is a list that is cut."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    expected: list[tuple[str, int, float]] = []
    writers: list[tuple[MetricsLog, list[int]]] = []
    reader, followed, driver = MetricsReader(run), [], ProgressWriter(run, 1000)

    def told(records) -> list[tuple[str, int, float]]:
        return [(record["kind"], record["step"], record["loss"]) for record in records]

    value = 0.0
    for what, number in [("start", 0.0), *events, ("look", 0)]:
        if what == "start":
            reached = max((step for _, step, _ in expected), default=0)
            from_step = round(number * reached)
            expected = [line for line in expected if line[1] <= from_step]
            writers.append((MetricsLog(run, begin_start(run), from_step, tensorboard=False), [from_step]))
        elif what == "look":
            anew, new = reader.read()
            followed = [*([] if anew else followed), *told(record for _, record in new)]
            assert followed == told(read_metrics(run)) == expected
            driver.tell()
            last = [line for line in expected if line[0] == "step"]
            assert (last_record(run, "step") or {}).get("loss") == (last[-1][2] if last else None)
        else:
            log, at = writers[-1 - int(number) % len(writers)]
            at[0] += what == "write"
            value += 1.0
            kind = "step" if what == "write" else "validation"
            log.write(kind, at[0], loss=value)
            log.flush()
            if log is writers[-1][0]:
                expected.append((kind, at[0], value))
    copy = RunFolder(tmp_path_factory.mktemp("copy"))
    Path(copy.metrics_file).write_bytes(run.metrics_file.read_bytes())
    assert told(read_metrics(copy)) == expected, "metrics.jsonl is the same in one file"
