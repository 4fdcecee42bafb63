"""A run's summary: the same as its metrics say, of one size however long the run is, and written by its driver."""

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.runs.folder import RunFolder
from jobs.runs.metrics import MetricsLog
from jobs.runs.progress import MetricsReader
from jobs.runs.starts import begin_start
from jobs.runs.summary import (
    POINTS,
    RATE_STEPS,
    Curve,
    Fold,
    ProgressWriter,
    RunSummary,
    SummaryReader,
    Validation,
    read_summary,
    summary_of,
)
from vr_core.config import plain

LOSSES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=300)


def step(number: int, loss: float | None, **more: float) -> dict:
    return {"kind": "step", "step": number, "loss": loss, "time_s": 0.5 * number, **more}


@given(LOSSES, st.integers(1, 9))
def test_a_summary_says_what_its_records_say(losses, every):
    fold, validations = Fold(), {}
    for number, loss in enumerate(losses, start=1):
        fold.add(step(number, loss, step_s=0.5))
        if number % every == 0:
            fold.add({"kind": "validation", "step": number, "loss": loss})
            validations[number] = loss
    found = fold.summary(500)
    finite = [loss for loss in losses if loss is not None]
    assert (found.step, found.steps) == (len(losses), 500)
    assert found.loss == (finite[-1] if finite else None)
    last = max(validations, default=None)
    assert found.validation == (None if last is None else Validation(step=last, loss=validations[last]))
    scores = [loss for loss in validations.values() if loss is not None]
    assert (found.best_validation.loss if found.best_validation else None) == min(scores, default=None)
    assert found.steps_per_s == (pytest.approx(2.0) if len(losses) > 1 else None)
    assert found.left_s == (pytest.approx((500 - len(losses)) / 2) if len(losses) > 1 else None)
    assert found.step_s == (0.5 if losses else None)
    assert RunSummary.model_validate_json(json.dumps(plain(found))) == found


@given(st.integers(0, 3000))
def test_a_curve_has_a_few_points_of_equal_stretches(count):
    curve = Curve()
    values = [math.sin(number / 50) for number in range(1, count + 1)]
    for number, value in enumerate(values, start=1):
        curve.add(number, value)
    points = curve.thinned()
    assert min(count, POINTS // 2) <= len(points) <= POINTS
    stretches = [values[at : at + curve.every] for at in range(0, count, curve.every)]
    assert [value for _, value in points] == pytest.approx([statistics.fmean(part) for part in stretches])
    assert [at for at, _ in points] == [min(curve.every * (k + 1), count) for k in range(len(points))]


def test_the_rate_is_that_of_the_last_steps():
    fold = Fold()
    for number in range(1, 1001):
        fold.add({"kind": "step", "step": number, "time_s": number * (1.0 if number < 1000 - RATE_STEPS else 2.0)})
    assert fold.summary(2000).steps_per_s == pytest.approx(0.5)


@pytest.mark.parametrize("value", [None, "much", True, [1.0], {}, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["loss", "time_s", "step_s"])
def test_a_value_that_is_no_number_is_as_good_as_not_told(name, value):
    fold = Fold()
    for number in (1, 2, 3):
        fold.add({**step(number, 1.0, step_s=0.5), **({name: value} if number == 2 else {})})
    found = fold.summary(9)
    assert (found.step, found.loss, found.step_s) == (3, 1.0, 0.5)
    fold.add({"kind": "not_worth", "step": 3, "ranks": value, "with_s": 1.0})
    fold.add({"kind": "sync", "step": 3, "plain": 1.5, "bf16": value})
    assert (fold.summary(9).not_worth, fold.summary(9).predicted_s) == (None, {"plain": 1.5})


def test_a_long_run_has_a_small_summary_that_keeps_the_last_validation(run):
    """The defect: it was looked for in the last 64 KiB, some 230 steps; watching kept every record."""
    fold = Fold()
    fold.add({"kind": "validation", "step": 1, "loss": 0.25})
    for number in range(1, 20_001):
        fold.add(step(number, 1 / number, grad_norm=1.0))
    found = fold.summary(200_000)
    assert found.validation == found.best_validation == Validation(step=1, loss=0.25)
    assert len(json.dumps(plain(found))) < 16_384


def test_a_driver_writes_what_a_reader_finds_by_itself(run: RunFolder):
    driver, reader = ProgressWriter(run, 100), SummaryReader(run, 100)
    assert driver.tell() == reader.read() == read_summary(run) == RunSummary(steps=100)
    for from_step, until in ((0, 7), (5, 12), (12, 20)):
        with MetricsLog(run, begin_start(run), from_step, tensorboard=False) as metrics:
            for number in range(from_step + 1, until + 1):
                metrics.write("step", number, loss=1 / number)
                metrics.flush()
                if number % 3 == 0:
                    assert driver.tell() == reader.read() == read_summary(run)
        assert driver.tell() == reader.read() == read_summary(run) == summary_of(run, 100)
        assert read_summary(run).step == until
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21)), "one file, as one reads it with other programs"


def test_another_driver_goes_on_with_the_same_files(run: RunFolder):
    with MetricsLog(run, begin_start(run), 0, tensorboard=False) as metrics:
        for number in range(1, 6):
            metrics.write("step", number, loss=1 / number)
            metrics.flush()
            ProgressWriter(run, 100).tell()
    assert [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert read_summary(run).step == 5


def test_a_copy_that_could_not_be_written_is_made_whole_the_next_time(run: RunFolder):
    driver = ProgressWriter(run, 100)
    with MetricsLog(run, begin_start(run), 0, tensorboard=False) as metrics:
        metrics.write("step", 1, loss=1.0)
        metrics.flush()
        driver.tell()
        content = run.metrics_file.read_bytes()
        run.metrics_file.unlink()
        run.metrics_file.mkdir()  # as a share that takes nothing
        metrics.write("step", 2, loss=0.5)
        metrics.flush()
        with pytest.raises(OSError, match="Is a directory"):
            driver.tell()
        run.metrics_file.rmdir()
        assert driver.tell().step == 2
    assert run.metrics_file.read_bytes().startswith(content)
    assert run.metrics_file.read_bytes().count(b"\n") == 2


def test_metrics_of_a_run_without_starts_are_left_as_they_are(run: RunFolder):
    content = '{"kind": "step", "step": 1, "loss": 0.5}\n{"kind": "st'
    run.metrics_file.write_text(content)
    driver = ProgressWriter(run, 100)
    assert driver.tell().step == driver.tell().step == 1
    assert run.metrics_file.read_text() == content


@pytest.mark.parametrize("damage", [None, b"", b"\xff", b"[]", b'{"steps": 0}', b'{"steps": 9, "news": 1}'])
def test_without_a_summary_that_can_be_read_the_metrics_say_the_same(run: RunFolder, damage):
    run.metrics_file.write_text('{"kind": "validation", "step": 1, "loss": 0.5}\n')
    if damage is not None:
        run.summary_file.write_bytes(damage)
    assert read_summary(run) is None
    assert summary_of(run, 9).validation == Validation(step=1, loss=0.5)


def test_metrics_are_followed_line_by_line_and_from_anew_after_a_resume(run: RunFolder):
    reader = MetricsReader(run)

    def steps() -> tuple[bool, list[int]]:
        anew, new = reader.read()
        return anew, [record["step"] for _, record in new]

    assert steps() == (True, [])
    with run.metrics_file.open("a") as file:  # as runs of earlier versions wrote it
        file.write('{"kind": "step", "step": 1}\n{"kin')
        file.flush()
        assert steps() == (True, [1]), "it is another file than none"
        assert steps() == (False, [])
        file.write('d": "step", "step": 2}\n')
    assert steps() == (False, [2])
    draft = run.path / "draft"
    draft.write_text("".join(f'{{"kind": "step", "step": {number}}}\n' for number in (1, 9, 10)))
    draft.replace(run.metrics_file)
    assert steps() == (True, [1, 9, 10])
    with MetricsLog(run, begin_start(run), 9, tensorboard=False) as metrics:
        metrics.write("step", 10, loss=1.0)
    assert steps() == (True, [1, 9, 10])
    assert steps() == (False, [])
