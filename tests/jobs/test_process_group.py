"""That what stands for Ray's `TorchConfig` in a driver is in all it does what Ray's own would be."""

from ray.train import BackendConfig
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from jobs.sync.process_group import ProcessGroup

OURS, THEIRS = ProcessGroup("gloo"), TorchConfig(backend="gloo")
CALLS = [name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")]
ASKED = {name for name, value in vars(BackendConfig).items() if isinstance(value, property)}
VALUES = [name for name, value in vars(Backend).items() if not callable(value) and not name.startswith("_")]


class Spoken:
    """A backend that notes what it is called with, in place of Ray's."""

    calls: list = []

    def __getattr__(self, name):
        return lambda group, config: self.calls.append((name, group, config))


class Watched(ProcessGroup):
    """Whose torch configuration leads to `Spoken`."""

    def torch_config(self):
        class Config(TorchConfig):
            backend_cls = Spoken

        return Config(backend=self.backend)


def test_what_ray_asks_before_anything_runs_is_what_its_own_would_say():
    assert VALUES
    for name in VALUES:
        assert getattr(OURS.backend_cls, name) == getattr(THEIRS.backend_cls, name), name


def test_every_property_that_ray_reads_of_a_configuration_is_known_here():
    """`framework` and `to_dict` are for Ray Train's state tracking, which is off."""
    assert {"backend_cls", "train_func_context", "framework"} == ASKED
    assert {name for name in vars(ProcessGroup) if name in ASKED} == ASKED - {"framework"}


def test_every_call_reaches_rays_own_backend_with_the_chosen_way():
    assert "on_start" in CALLS
    for name in CALLS:
        getattr(OURS.backend_cls(), name)("the group", Watched("nccl"))
        told, group, config = Spoken.calls.pop()
        assert (told, group, config.backend) == (name, "the group", "nccl")
    assert Spoken.calls == []


def test_a_worker_is_in_rays_own_context_while_it_trains(monkeypatch):
    seen = []

    class Context:
        def __enter__(self):
            seen.append("in")

        def __exit__(self, *error):
            seen.append("out")

    # Ray's own does something only where there is a GPU.
    monkeypatch.setattr(TorchConfig, "train_func_context", Context)
    with OURS.train_func_context():
        assert seen == ["in"]
    assert seen == ["in", "out"]
