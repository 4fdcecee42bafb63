"""A configuration in numbers, counted without computing anything: parameters, arithmetic, memory of training."""

import torch
from jaxtyping import Inexact
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.specs.configurations import Configuration, Figures
from vr_core.specs.fronts import STEREO, Front


def figures_of(configuration: Configuration) -> Figures:
    """Counted on tensors without memory (an STFT is not counted: it is less than 1 %)."""
    crop_s = configuration.crop_frames * configuration.stft.hop / configuration.stft.sample_rate_hz
    with FakeTensorMode():
        model = _model_of(configuration, recompute=False)
        heard = unheard(model.front, model.front.bins_on(configuration.stft), configuration.crop_frames)
        flop, kept = forward_flop(model, heard), _kept_bytes(model, heard)
        recomputed = None
        if "recompute" in type(configuration.model).model_fields:
            transformers = 2 * getattr(configuration.model, "blocks")  # noqa: B009 - not all models have it
            outside = _kept_bytes(_model_of(configuration, recompute=True), heard)
            # While one transformer is computed again, what it keeps is there as well.
            recomputed = outside + (kept - outside) // transformers
    return Figures(count_parameters(model), flop / crop_s, kept, recomputed)


def unheard(front: Front, bins: int, frames: int) -> Inexact[Tensor, "1 2 {bins} {frames}"]:
    """What a model with that front hears of an item, `[1, channel, bin, frame]`, with no value in it."""
    return torch.empty((1, STEREO, bins, frames), dtype=torch.complex64 if front.phase else torch.float32)


def forward_flop(model: nn.Module, heard: Inexact[Tensor, "1 channel bin frame"]) -> int:
    """Products and sums of a forward pass; tensors may be without memory."""
    # As products of matrices: the counter passes over the fused attention of a CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(heard)
    return int(counter.get_total_flops())


def count_parameters(model: nn.Module) -> int:
    """As published: with what files hold beside, which are fixed frequencies and weights that nothing computes."""
    fixed = [buffer for name, buffer in model.named_buffers() if name.endswith((".weight", "freqs"))]
    return sum(weights.numel() for weights in (*model.parameters(), *fixed))


def _model_of(configuration: Configuration, *, recompute: bool) -> Model:
    spec = configuration.model
    if "recompute" in type(spec).model_fields:
        spec = spec.model_copy(update={"recompute": recompute})
    return build(spec, spec.front.bins_on(configuration.stft), configuration.head).train()


def _kept_bytes(model: Model, heard: Tensor) -> int:
    """What autograd keeps of a forward pass, each storage once, without the parameters."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, or its number would be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(heard)
    return sum(storage.nbytes() for storage in kept.values())
