"""What a model may not hold in training: an item is the same in any batch, whoever computes it and beside which others.

Workers cut a step by their speed, and the cut changes while a run goes on. A statistic over the items of a micro-batch
would change the run's result with it.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from vr_core.errors import ModelError


def require_per_item(model: nn.Module) -> None:
    """Check that no norm takes statistics over the items of a batch, or keeps a mean of those that it has seen.

    Raises:
        ModelError: some do; all are named.
    """
    found = [
        f"{name or 'itself'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) or (isinstance(module, _InstanceNorm) and module.track_running_stats)
    ]
    if found:
        raise ModelError(
            f"{type(model).__name__} cannot be trained: {', '.join(found)} takes statistics over the items of a batch, "
            "which is cut anew by every worker's speed; use LayerNorm, GroupNorm, RMSNorm, or InstanceNorm without "
            "track_running_stats"
        )
