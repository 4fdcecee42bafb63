"""`python -m tests.gpu` where there is no card: its frame, and those of its parts that a CPU can compute."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import attention
from tests.bench.models import training_step
from tests.gpu import __main__ as gpu
from tests.gpu.clock import device_s
from tests.gpu.exchange import one_rank
from tests.gpu.memory import MOST, largest
from tests.gpu.parts import PARTS
from tests.gpu.precision import losses_apart
from tests.gpu.speed import heard_by, model_of, separated_per_s, short
from vr_core.models.layers.attention import FrameAttention
from vr_core.specs.configurations import CONFIGURATIONS

CPU = torch.device("cpu")
SMALL = short(CONFIGURATIONS["dense_frame_transformer/songs"], 1.0)


def test_the_parts_take_8_minutes_at_most():
    assert sum(part.limit_s for part in PARTS.values()) <= 480


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_a_part_says_so_and_nothing_fails():
    said = gpu.run_part("exchange", 120)
    assert said.pop("seconds") > 0
    assert said == {gpu.NOT_HERE: "torch.cuda.is_available() is false"}


def test_what_fails_or_hangs_is_told_beside_the_others(monkeypatch, capsys):
    answers = {"driver": {"found": {"a": 1}}, "memory": {"failed": "out of memory"}}
    monkeypatch.setattr(gpu, "run_part", lambda name, limit_s: answers.get(name, {gpu.NOT_HERE: "no card"}))
    assert gpu.main([]) == 1
    told = json.loads(capsys.readouterr().out)
    assert set(told["parts"]) == set(PARTS)
    assert told["parts"]["memory"] == {"failed": "out of memory"}
    assert {"date", "hardware", "commit"} <= set(told)


def test_a_part_that_ends_without_an_answer_has_failed(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho it broke; exit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(gpu.sys, "executable", str(broken))
    said = gpu.run_part("memory", 30)
    assert said["failed"] == "exit code 3: it broke\n"
    broken.write_text("#!/bin/sh\nexec sleep 60\n")
    assert gpu.run_part("memory", 0.2) == {"failed": "no answer in 0.2 s"}


@given(st.integers(0, MOST + 3))
def test_the_largest_that_fits_is_found(room):
    assert largest(lambda items: items <= room) == min(room, MOST)


def test_a_step_moves_every_weight_and_audio_is_separated():
    model = model_of(SMALL, CPU).train()
    before = [p.detach().clone() for p in model.parameters()]
    training_step(model, heard_by(SMALL, 2, CPU), bf16=True)()
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) == len(before)
    assert separated_per_s(SMALL, CPU, 2.0) > 0


def test_bfloat16_has_the_loss_of_float32():
    assert set(losses_apart(CPU, ("dense_frame_transformer/songs",))) == {"dense_frame_transformer/songs"}


def test_one_rank_adds_up_and_its_gradient_is_right():
    found = one_rank(CPU)
    assert (found["backend"], found["gradient_off"] < 1e-4) == ("gloo", True)


def test_attention_is_measured_on_what_the_models_compute():
    """The relative term is the same as a mask, and without its vectors it is attention without positions."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, attention.HEADS, 5, attention.HEAD_WIDTH) for _ in range(3))
    layer = FrameAttention(attention.HEADS * attention.HEAD_WIDTH, attention.HEADS, 5)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(layer.attended(q, k, v), plain)
    torch.nn.init.normal_(layer.distance)
    assert not torch.allclose(layer.attended(q, k, v), plain)
    as_mask = attention.relative_as_mask(q, k, v, layer.distance)
    torch.testing.assert_close(layer.attended(q, k, v), as_mask)
    assert list(attention.ways(8, CPU)) == ["rotary", "scalar", "relative", "relative, as a mask", "without positions"]


def test_a_clock_counts_what_it_is_given():
    calls = []
    assert device_s(lambda: calls.append(1), CPU, turns=3) >= 0
    assert len(calls) == 5
