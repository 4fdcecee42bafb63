"""The frame of the benchmarks: what every one of them prints, with one that measures nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import blocks, models
from tests.bench.__main__ import BENCHMARKS, main
from tests.bench.compiled import spent_s
from tests.bench.measurement import Benchmark
from tests.bench.shares import blocks_of, rate_in, steps_within
from vr_core.specs.configurations import CONFIGURATIONS


@pytest.fixture
def calls(monkeypatch):
    """What the benchmark `stub` was asked to do, in order."""
    made = []

    def measure(quick):
        made.append("quick" if quick else "full")
        return {"ratio": 1.5, "promised_s": 15.0, "cut_s": [10.0]}

    monkeypatch.setitem(BENCHMARKS, "stub", Benchmark("one over the other", measure, lambda: made.append("install")))
    return made


def test_json_is_one_object_with_the_ratio_and_what_it_was_computed_from(calls, capsys):
    main(["stub", "--quick", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["name"], result["ratio"], result["quick"]) == ("stub", 1.5, True)
    assert (result["promised_s"], result["cut_s"]) == (15.0, [10.0])
    assert {"date", "hardware", "commit"} <= set(result)
    assert calls == ["quick"]


def test_the_report_begins_with_the_ratio_and_what_it_is(calls, capsys):
    main(["stub"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "stub: 1.50  (one over the other)"
    assert "promised_s  15" in rest
    assert calls == ["full"]


def test_the_page_of_results_has_a_row_and_a_heading_for_every_benchmark():
    page = Path(__file__).with_name("bench").joinpath("README.md").read_text()
    assert re.findall(r"^\| \[(\w+)\]\(#\1\) \|", page, flags=re.MULTILINE) == sorted(BENCHMARKS)
    assert set(BENCHMARKS) <= set(re.findall(r"^## (\w+)$", page, flags=re.MULTILINE))


def test_a_configuration_is_measured_by_its_own_arithmetic_and_cpu_time(monkeypatch):
    monkeypatch.setattr(models, "_LEAST_S", 0.05)
    monkeypatch.setattr(models, "matrix_flop_per_s", lambda: 1e10)
    small = CONFIGURATIONS["plain_stack/256x3"]
    found = models.measure_one(small, trained=True)
    assert found["gflop_per_s"] == pytest.approx(small.figures.forward_flop_per_s / 1e9, rel=0.02)
    assert found["share"] == pytest.approx(found["gflop_per_s"] / 10 / found["core_s_per_s"])
    assert found["training_core_s_per_s"] > found["core_s_per_s"]
    assert "training_core_s_per_s" not in models.measure_one(small, trained=False)


def test_works_are_measured_in_turns_and_the_least_of_each_counts(monkeypatch):
    monkeypatch.setattr(models, "_LEAST_S", 0.0)
    spent, now = {"one": iter([3.0, 1.0, 2.0]), "other": iter([5.0, 4.0, 6.0])}, [0.0]
    order = []

    def work(name):
        order.append(name)
        now[0] += next(spent[name])

    monkeypatch.setattr(models.time, "process_time", lambda: now[0])
    found = models.in_turns({"one": lambda: work("one"), "other": lambda: work("other")}, 3)
    assert found == {"one": 1.0, "other": 4.0}
    assert order == ["one", "other"] * 3


def test_products_of_matrices_of_a_block_are_counted_forward_and_backward(monkeypatch):
    monkeypatch.setattr(models, "_LEAST_S", 0.0)
    width, hidden, frames = 32, 24, 10
    for name, value in {"WIDTH": width, "FEEDFORWARD": hidden, "HEADS": 2, "TURNS": 1}.items():
        monkeypatch.setattr(blocks, name, value)
    linear = width * (2 * width + (hidden // 2) * 2 + hidden // 4 + 4 * width + 2 * hidden)
    attention = 2 * frames * width  # a frame's product with the keys, and that with the values
    by_position = {"corrected": (2 * frames - 1) * width, "seed": frames * width}
    found = blocks.measure_one(frames)
    for name, row in found.items():
        # Forward, and a product each for the gradients of both factors; the sum of two maps is a product too.
        flop = 3 * 2 * frames * (linear + attention + by_position[name])
        assert row["products, GFLOP"] * 1e9 == pytest.approx(flop, rel=0.03)
        assert row["all"] == pytest.approx(
            sum(row[part] for part in ("linear maps", "convolutions", "attention between them", "the rest"))
        )
    difference = found["corrected"]["products, GFLOP"] - found["seed"]["products, GFLOP"]
    assert difference * 1e9 == pytest.approx(3 * 2 * frames * (frames - 1) * width, rel=0.03)


@pytest.mark.parametrize("name", ["corrected", "seed"])
def test_every_part_of_a_block_is_computed_alone_once(name, monkeypatch):
    monkeypatch.setattr(blocks, "core_s", lambda work, turns: 1.0)
    # Two linear maps and a convolution are within the attention.
    assert blocks.parts_s(blocks.blocks(4)[name], 4) == {
        "linear maps": 8.0, "convolutions": 4.0, "attention between them": 1.0 - 3.0
    }  # fmt: skip


def test_what_other_processes_compute_counts_as_spent():
    spin = "import time; s = time.process_time()\nwhile time.process_time() < s + 0.3: pass"
    assert spent_s(lambda: subprocess.run([sys.executable, "-c", spin], check=True)) > 0.3


def test_installing_measures_nothing(calls, capsys):
    main(["stub", "--install"])
    assert calls == ["install"]
    assert capsys.readouterr().out == ""


def test_an_unknown_name_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["detekt"])
    assert "detect" in capsys.readouterr().err


def test_an_interrupted_step_counts_with_the_time_in_which_its_run_could_go_on():
    turns = [(10.0, 15.0), (20.0, 25.0), (35.0, 40.0), (45.0, 50.0)]
    times = [(9.5, 12.0), (12.0, 14.0), (14.0, 21.0), (21.0, 37.0), (37.0, 46.0), (46.0, 49.0), (49.0, 51.0)]
    told = [{"time_s": end, "step_s": end - begin, "shares": [3, 1]} for begin, end in times]

    steps = steps_within(told, turns)

    assert [(step.line["time_s"], step.could_run_s) for step in steps] == [
        (14.0, 2.0), (21.0, 2.0), (37.0, 6.0), (46.0, 4.0), (49.0, 3.0)
    ]  # fmt: skip
    assert [step.whole for step in steps] == [True, False, False, False, True]
    assert rate_in(steps, turns) == pytest.approx(20 / 17)
    assert blocks_of(turns, 2) == [turns[:2], turns[2:]]
    # The first two turns: a step of 2 s, one of 1 + 1 s, and 4 of the 6 s of the next.
    assert rate_in(steps, turns[:2]) == pytest.approx((4 + 4 + 4 * 4 / 6) / 8)
    with pytest.raises(ValueError, match="no step was taken"):
        rate_in(steps, [(9.0, 11.0)])
    between = {"time_s": 18.0, "step_s": 1.0, "shares": [3, 1]}
    assert rate_in([*steps, *steps_within([between], turns)], turns) == pytest.approx(20 / 17)
