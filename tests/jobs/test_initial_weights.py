"""Which heads a run takes of weights of other stems."""

import torch

from jobs.steps.initial_weights import with_own_heads
from vr_core.loading import require_fit
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import BsRoformerSpec, CascadedNetSpec, ModelSpec, PlainStackSpec
from vr_core.specs.stft import StftSpec

ROFORMER = BsRoformerSpec(width=4, blocks=1, heads=1, head_width=4, stft=StftSpec(n_fft=64, hop=16), bands=(16, 17))
STACK = PlainStackSpec(width=4, blocks=1)


def model_of(spec: ModelSpec, *stems: str, kind: str = "complex_mask", seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build(spec, 33, HeadSpec(kind=kind, stems=stems))


def taken(theirs: Model, own: Model) -> tuple[dict[str, str], list[str]]:
    """Parameter → the one of `theirs` that it was taken from, or `fresh`; and what is said."""
    state = theirs.state_dict()
    found, lines = with_own_heads(state, theirs, own)
    require_fit(own, found, "x")
    # Tensors are told apart by where they lie.
    names = {tensor.data_ptr(): name for name, tensor in state.items()}
    return {name: names.get(tensor.data_ptr(), "fresh") for name, tensor in found.items()}, lines


def test_heads_follow_their_stems_and_the_body_is_taken() -> None:
    theirs = model_of(ROFORMER, "drums", "bass", "vocals")
    own = model_of(ROFORMER, "vocals", "instrumental", seed=1)
    found, lines = taken(theirs, own)
    for name, source in found.items():
        if name.startswith("mask_estimators.0."):
            assert source == name.replace("mask_estimators.0.", "mask_estimators.2.")
        else:
            assert source == ("fresh" if name.startswith("mask_estimators.1.") else name)
    assert lines == [
        "the head of instrumental (mask_estimators.1.*) is new and starts fresh",
        "its head of drums (mask_estimators.0.*) is not taken", "its head of bass (mask_estimators.1.*) is not taken",
    ]  # fmt: skip


def test_a_head_of_another_kind_is_not_taken_and_equal_ones_are_without_a_word() -> None:
    theirs, real = model_of(ROFORMER, "vocals"), model_of(ROFORMER, "vocals", kind="mask", seed=1)
    found, lines = taken(theirs, real)
    assert {name for name, source in found.items() if source == "fresh"} == {
        name for name in found if name.startswith("mask_estimators.")
    }
    assert len(lines) == 2
    found, lines = taken(theirs, model_of(ROFORMER, "vocals", seed=1))
    assert (lines, "fresh" in found.values()) == ([], False)


def test_one_head_for_all_stems_is_taken_only_for_the_same_stems() -> None:
    theirs = model_of(STACK, "vocals", "drums")
    found, lines = taken(theirs, model_of(STACK, "vocals", seed=1))
    assert {name.startswith("output.") for name, source in found.items() if source == "fresh"} == {True}
    assert lines == [
        "the head of vocals (output.*) is new and starts fresh", "its head of vocals, drums (output.*) is not taken",
    ]  # fmt: skip
    assert taken(theirs, model_of(STACK, "vocals", "drums", seed=1))[1] == []


def test_an_auxiliary_output_is_of_the_head() -> None:
    net = CascadedNetSpec(channels=4, lstm=8, norm="frozen_batch", auxiliary=True)
    without = net.model_copy(update={"auxiliary": False})
    theirs = model_of(net, "instrumental", kind="mask")
    for spec, stems, fresh in (
        (net, ("vocals", "instrumental"), {"out.weight", "aux_out.weight"}), (without, ("vocals",), {"out.weight"}),
        (net, ("instrumental",), set()), (without, ("instrumental",), set()),
    ):  # fmt: skip
        found, _ = taken(theirs, model_of(spec, *stems, kind="mask", seed=1))
        assert {name for name, source in found.items() if source == "fresh"} == fresh
    found, lines = taken(model_of(without, "vocals", kind="mask"), model_of(net, "vocals", kind="mask", seed=1))
    assert ({name for name, source in found.items() if source == "fresh"}, lines) == ({"aux_out.weight"}, [])


def test_a_body_that_does_not_fit_is_refused_with_the_first_names() -> None:
    theirs = model_of(ROFORMER, "drums")
    wider = model_of(ROFORMER.model_copy(update={"width": 8}), "vocals")
    state, _ = with_own_heads(theirs.state_dict(), theirs, wider)
    message = ""
    try:
        require_fit(wider, state, "w.safetensors")
    except Exception as error:
        message = str(error)
    assert message.startswith("w.safetensors: does not fit the model: band_split.to_features.0.")
    assert "mask_estimators" not in message
