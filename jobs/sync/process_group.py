"""How Ray Train's workers get their process group, without torch in the driver.

Ray's `TorchTrainer` cannot be imported without torch, which costs a driver that only waits two seconds of CPU time and
500 MB. Here the driver says what it wants, and Ray's own torch backend is made where it acts: in Ray Train's controller
and in the workers. Importing this module imports `ray.train`; `jobs.execution.ray_train` does so when it starts
workers.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ray.train import BackendConfig
from ray.train.backend import Backend

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig


@dataclass
class ProcessGroup(BackendConfig):
    """What `TorchTrainer` would make of `TorchConfig(backend=...)`, for a `DataParallelTrainer`."""

    backend: Literal["nccl", "gloo"]

    def torch_config(self) -> "TorchConfig":
        """Ray's own; imports torch."""
        from ray.train.torch import TorchConfig

        return TorchConfig(backend=self.backend)

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose methods Ray Train's controller calls around the workers' life."""
        return _LateTorch

    @property
    def train_func_context(self) -> Callable[[], AbstractContextManager[None]]:
        """What a worker is in while it trains; called there."""
        return _torch_context


class _LateTorch(Backend):
    """Ray's torch backend, made when it is first called."""

    share_cuda_visible_devices = True
    """As Ray's own has it: its value is read before anything is called."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        config = backend_config.torch_config()
        config.backend_cls().on_start(worker_group, config)

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        config = backend_config.torch_config()
        config.backend_cls().on_training_start(worker_group, config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        config = backend_config.torch_config()
        config.backend_cls().on_shutdown(worker_group, config)


@contextlib.contextmanager
def _torch_context() -> Iterator[None]:
    from ray.train.torch import TorchConfig

    with TorchConfig().train_func_context():
        yield
