"""Every model under torch.compile on a CPU: eager's answers and eager's gradients.

Dropout is on in three of them: its arithmetic takes the compiler most of a minute in each.
"""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests import compilation
from vr_core.draws import Draws
from vr_core.models.cascaded_net import UNet
from vr_core.models.model import Model
from vr_core.models.multi_band_dense import MultiBandDense, NetShape
from vr_core.models.registry import MODELS, build
from vr_core.specs.fronts import AS_STORED, STEREO
from vr_core.specs.heads import MASK, HeadSpec
from vr_core.specs.models import (
    BsRoformerSpec,
    CascadedNetSpec,
    DenseFrameTransformerSpec,
    FrameUNetSpec,
    MelRoformerSpec,
    ModelSpec,
    PlainStackSpec,
    SeedFrameTransformerSpec,
    UNetSpec,
)
from vr_core.specs.stft import StftSpec

pytestmark = [
    # 2026-11-30, torch 2.13: its compiler imports a module of its own that warns.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    # A complex spectrogram and a complex mask are left to the eager operators, and that is right.
    pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex:UserWarning"),
]

ITEMS, BINS, FRAMES = 2, 16, 9
MOST_OFF = 1e-5
"""Of the largest value, and of the largest gradient."""

Case = Callable[[], tuple[nn.Module, Tensor]]
"""A module that maps what it hears and draws to an answer or a tensor, and what it hears."""


def of_magnitudes(spec: ModelSpec) -> tuple[Model, Tensor]:
    return build(spec, BINS), torch.rand(ITEMS, STEREO, BINS, FRAMES)


def of_phase(kind: type[BsRoformerSpec | MelRoformerSpec], **bands: object) -> tuple[Model, Tensor]:
    stft = StftSpec(n_fft=64, hop=16)
    spec = kind(width=12, blocks=1, heads=2, head_width=4, stft=stft, mask_expansion=2, **bands)
    bins = spec.front.bins_on(stft)
    heard = torch.randn(ITEMS, STEREO, bins, FRAMES, dtype=torch.complex64)
    return build(spec, bins, HeadSpec(kind="complex_mask")), heard


def of_one_stage() -> tuple[nn.Module, Tensor]:
    """The whole of `cascaded_net` is five of these, which take as many times as long to compile."""
    stage = UNet(CascadedNetSpec(channels=4, lstm=4, dropout=0), STEREO, 4, 2 * BINS, 4, 0)
    return stage, torch.rand(ITEMS, STEREO, 2 * BINS, 16)


def of_two_nets(lstm: dict[int, int]) -> tuple[Model, Tensor]:
    """The parts of the multi-band nets, whose one size takes four minutes to compile."""
    band, full = NetShape(4, (2,) * 3, (2,) * 3, (3, 3), lstm), NetShape(2, (2,) * 3, (1,) * 3, (4, 3))
    model = MultiBandDense(BINS, MASK, AS_STORED, bands=[(BINS, band)], full=full, final=(2, 2, (2, 1), True))
    return model, torch.rand(ITEMS, STEREO, BINS, FRAMES)


CASES: dict[str, Case] = {
    "bs_roformer": partial(of_phase, BsRoformerSpec, bands=(16, 17)),
    "cascaded_net": of_one_stage,
    "dense_frame_transformer": partial(
        of_magnitudes,
        DenseFrameTransformerSpec(width=8, blocks=1, heads=2, feedforward=8, max_distance_frames=6, dropout=0.5),
    ),
    "frame_unet": partial(
        of_magnitudes,
        FrameUNetSpec(
            channels=2, levels=1, heads=2, block_bins=8, block="primer", positions="rotary", causal=True, dropout=0
        ),
    ),
    "mel_roformer": partial(of_phase, MelRoformerSpec, mel_bands=3),
    "mmdenselstm": partial(of_two_nets, {1: 4}),
    "mmdensenet": partial(of_two_nets, {}),
    "plain_stack": partial(
        of_magnitudes, PlainStackSpec(width=8, blocks=1, kernel_frames=3, expansion=2, dropout=0.5)
    ),
    "seed_frame_transformer": partial(
        of_magnitudes, SeedFrameTransformerSpec(blocks=1, heads=2, feedforward=8, crop_frames=FRAMES, dropout=0)
    ),
    "unet": partial(of_magnitudes, UNetSpec(channels=4, levels=2, dropout=0.5)),
}  # fmt: skip
QUICK = ("plain_stack", "unet")
"""The others take half a minute of a core and more each."""


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Of a long case, which has a group of its own: in one process all of them would take ten minutes."""
    group = pytest.mark.xdist_group(f"compiled-{name}")
    return [] if name in QUICK else [pytest.mark.long("vr_core/models"), group]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    compilation.require()
    with compilation.compiler(tmp_path_factory.mktemp("compiled")):
        yield


def answer_and_gradients(module: nn.Module, net: nn.Module, heard: Tensor, draws: Draws) -> dict[str, Tensor]:
    """By name; `net` is the module or what it was compiled to."""
    module.zero_grad()
    found = net(heard, draws)
    (answer,) = found.values() if isinstance(found, dict) else (found,)
    numbers = torch.view_as_real(answer) if answer.is_complex() else answer
    weights = torch.randn(numbers.shape, generator=torch.Generator().manual_seed(0))
    (numbers * weights).sum().backward()
    return {"answer": numbers.detach()} | {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_as_eager(module: nn.Module, net: nn.Module, heard: Tensor, draws: Draws) -> None:
    eager = answer_and_gradients(module, module, heard, draws)
    assert set(eager) == {"answer", *dict(module.named_parameters())}
    compiled = answer_and_gradients(module, net, heard, draws)
    largest = max(value.abs().max() for name, value in eager.items() if name != "answer")
    for name, value in eager.items():
        most = MOST_OFF * (value.abs().max() if name == "answer" else largest)
        assert (compiled[name] - value).abs().max() <= most, name


def test_every_name_has_a_case() -> None:
    assert set(CASES) == set(MODELS)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in CASES])
def test_it_trains_compiled_as_it_does_eagerly(name: str) -> None:
    torch.manual_seed(0)
    module, heard = CASES[name]()
    module.train()
    # Without this an LSTM cuts the graph in two.
    with torch._dynamo.config.patch(allow_rnn=True):
        net = torch.compile(module, fullgraph=True)
        assert_as_eager(module, net, heard, Draws.of_items(0, range(ITEMS)))
    # The next step's numbers are other ones, and nothing is compiled for them.
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_as_eager(module, net, heard, Draws.of_items(0, range(ITEMS, 2 * ITEMS)))
