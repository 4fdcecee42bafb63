"""Named configurations: what is written of each is what its network has."""

import pytest
import torch

from vr_core.models.figures import figures_of
from vr_core.models.registry import MODELS, build
from vr_core.specs.configurations import CONFIGURATIONS
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec

PUBLISHED = {
    "bs_roformer/192x6": 24_591_340, "bs_roformer/256x12": 51_049_484, "bs_roformer/256x12-six": 174_656_564,
    "bs_roformer/384x6": 74_532_652, "bs_roformer/384x12": 98_194_828, "bs_roformer/512x12": 159_758_092,
    "mel_roformer/384x6": 228_202_852, "mel_roformer/384x12": 251_869_636, "cascaded_net/v5": 14_740_882,
    "cascaded_net/v5-wide": 129_170_978, "cascaded_net/v5-complex": 14_742_866, "cascaded_net/v6": 14_740_898,
}  # fmt: skip


def test_every_published_size_is_there_with_its_count() -> None:
    assert {name: CONFIGURATIONS[name].figures.parameters for name in PUBLISHED} == PUBLISHED
    assert {name.partition("/")[0] for name in CONFIGURATIONS} == MODELS.keys()
    assert all(name.startswith(f"{configuration.model.name}/") for name, configuration in CONFIGURATIONS.items())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_its_figures_are_those_of_the_network(name: str) -> None:
    configuration = CONFIGURATIONS[name]
    written, counted = configuration.figures, figures_of(configuration)
    assert written.parameters == counted.parameters
    assert written.forward_flop_per_s == pytest.approx(counted.forward_flop_per_s, rel=0.01)
    assert written.item_bytes == pytest.approx(counted.item_bytes, rel=0.01)
    assert (written.recomputed_bytes is None) == (counted.recomputed_bytes is None)
    if counted.recomputed_bytes is not None:
        assert written.recomputed_bytes == pytest.approx(counted.recomputed_bytes, rel=0.01)


def test_amplitudes_have_the_scale_of_their_spectrograms() -> None:
    answering = [found for found in CONFIGURATIONS.values() if found.head.kind == "amplitude"]
    assert answering
    for found in answering:
        assert found.model.answer_scale == pytest.approx(4 / (found.model.front.stft or StftSpec()).n_fft, rel=0.05)


def test_the_work_is_that_of_other_counts() -> None:
    """GFLOP for a second of audio, counted apart from this project for the published sizes."""
    wanted = {"bs_roformer/384x6": 369, "bs_roformer/256x12": 449, "bs_roformer/384x12": 728,
              "bs_roformer/512x12": 1086, "mel_roformer/384x6": 388, "cascaded_net/v5": 22.8}  # fmt: skip
    for name, gflop in wanted.items():
        assert CONFIGURATIONS[name].figures.forward_flop_per_s == pytest.approx(gflop * 1e9, rel=0.01)


def test_bytes_that_are_kept_are_those_that_autograd_holds() -> None:
    """Of a stack that is small enough to count by hand: a linear map keeps its input, a norm its input and sums."""
    configuration = CONFIGURATIONS["plain_stack/256x3"]
    frames, bins, width = configuration.crop_frames, 1024, 256
    least = 4 * frames * (2 * bins + 3 * (2 * width + 2 * 4 * width) + width + 2 * bins)
    assert least < configuration.figures.item_bytes < 3 * least


def test_the_receptive_field_is_where_an_answer_stops_to_change() -> None:
    torch.manual_seed(0)
    spec = PlainStackSpec(width=8, blocks=2, kernel_frames=5)
    model = build(spec, 16).eval()
    heard = torch.rand(1, 2, 16, 64)
    other = heard.clone()
    other[..., 32] += 1
    changed = (model(heard)["mask"] != model(other)["mask"]).flatten(0, 3).any(dim=0).nonzero().flatten()
    assert spec.front.receptive_frames == 9
    assert (int(changed[0]), int(changed[-1])) == (32 - 4, 32 + 4)
