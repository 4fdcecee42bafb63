"""The schema of a recipe: everything that one run needs, read by the command line, the workers and Tune alike."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vr_core.config import Spec, digest, identity, plain
from vr_core.errors import ConfigError
from vr_core.specs.bounds import Count, Positive
from vr_core.specs.lora import LoraSpec
from vr_core.specs.models import DenseFrameTransformerSpec, ModelSpec
from vr_core.specs.objectives import ObjectiveSpec, SeparateSpec
from vr_core.specs.optim import OptimSpec

RUNS = Path("runs")
"""Where run folders are, unless one is told otherwise."""


class BatchSpec(Spec):
    """What one optimiser step covers, whoever computes it."""

    items: Count = 16
    """Items of a step over the whole cluster (N): the ranks cut it, it never changes."""
    micro_batch: Count = 16
    """Most items that a worker computes at once; more are accumulated."""
    crop_frames: Count = 256


class CurriculumSpec(Spec):
    """Crops of another length for the first steps: short ones cost less, and say enough at first."""

    until_step: Count
    """The step with which it ends; then comes the next row, and after the last one `batch.crop_frames`."""
    crop_frames: Count


class ValidationSpec(Spec):
    """Fixed crops and fixed masks, so that two validations differ by the weights alone."""

    every_steps: Count = 200
    items: Count = 32


class CheckpointSpec(Spec):
    """When a checkpoint is written, and how many stay."""

    every_s: Positive = 120.0
    every_steps: Count | None = None
    keep: Count = 2
    """Newest ones kept; the best one stays besides."""
    own_disk_every_s: Positive | None = None
    """Where set, every PC copies the state to its own disk so often: for a share that is slow. Not with a way of `sync`
    in `OWN_PARTS`."""


SyncName = Literal["plain", "bf16", "powersgd", "diloco"]
"""plain: gradients as they are; bf16: half the bytes, rounded; diloco: weights, now and then. Recipes of earlier runs
may name powersgd, which no run can take any more."""
SYNC_NAMES: tuple[SyncName, ...] = ("plain", "bf16", "diloco")
"""The most exact first."""
OWN_PARTS: tuple[SyncName, ...] = ("diloco",)
"""Ways with which a checkpoint has parts of every worker: no PC has all of it."""
AUTO_SYNC: tuple[SyncName, ...] = ("plain", "bf16")
"""What `sync: auto` chooses from: what keeps the recipe's step."""


POWERSGD_IS_GONE = (
    "sync: powersgd is no longer supported: diloco is faster and costs less loss; "
    "use sync=bf16 or sync=diloco in a new run"
)


class AutoSyncSpec(Spec):
    """Choose by measurement among ways of which some change what is computed: only where the recipe lists them."""

    auto: Annotated[tuple[SyncName, ...], Field(min_length=1)]


LOCAL_FROM_STEP = 2000
"""Most steps before local ones begin, where the recipe does not say."""


class DilocoSpec(Spec):
    """Every worker takes optimiser steps of its own; an outer one adds up what came of them (Douillard et al. 2023)."""

    every_steps: Count = 16
    """Steps between two outer ones; a validation and the run's end come with one besides."""
    behind_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps that go on while the weights travel; without it, as many as that takes by links measured at the start."""
    start_step: Annotated[int, Field(ge=0)] | None = None
    """Until then nothing travels: every worker computes all items of each step, as one that is alone would. Without it,
    half of the run's steps, at most `LOCAL_FROM_STEP`: local steps from nothing on end at a higher loss."""
    lr: Positive = 0.7
    """Of the outer optimiser."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Nesterov's, of the outer optimiser. The paper's 0.9 goes with rounds of hundreds of steps: with 16, less was
    better (jobs/DECISIONS.md)."""

    @model_validator(mode="after")
    def _within_a_round(self) -> "DilocoSpec":
        if self.behind_steps is not None and self.behind_steps > self.every_steps:
            raise ValueError(f"behind_steps {self.behind_steps} is more than every_steps {self.every_steps}")
        return self


class WorkersSpec(Spec):
    """How the run computes: one Ray Train worker per GPU, or per `cpus` cores where there is none."""

    count: Count = 1
    """Fixed; a recipe with `nodes` has as many as there are machines."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs when every live node that matches has one."""
    cpus: Count = 1
    """Cores for each worker."""
    labels: tuple[dict[str, str], ...] = ()
    """One for all workers, or one for each: the node labels that a worker's machine must carry."""
    shares: Literal["measured", "equal"] = "measured"
    """measured: a step's items are cut such that unequal machines are done together."""
    hung_after_s: Positive = 900
    """Workers that are all there and take no step for so long are ended, which counts as a failure."""


class NodesSpec(Spec):
    """Which machines a run takes: as many as are there, and they may come and go."""

    min: Count = 1
    """With fewer the run waits."""
    max: Count | Literal["all"] = "all"
    memory_gib: Positive | None = None
    """Least memory of each GPU of a machine (label vr/gpu-memory-gib); a run on CPUs does not look at it."""
    labels: dict[str, str] = {}
    """What every machine must carry, in Ray's notation: `x`, `!x`, `in(x,y)`, `!in(x,y)`."""
    exclude: tuple[str, ...] = ()
    """Names of machines that are left alone."""
    leave_out: bool = True
    """Go on without a machine that makes steps longer, such as a slow card behind a slow link."""

    @model_validator(mode="after")
    def _ordered(self) -> "NodesSpec":
        if self.max != "all" and self.max < self.min:
            raise ValueError(f"max {self.max} is less than min {self.min}")
        return self


class TuneSpec(Spec):
    """A search over this recipe's own keys (`vr tune`)."""

    space: dict[str, tuple[float | int | str | bool, ...] | dict[Literal["uniform", "loguniform"], tuple[float, float]]]
    """Dotted key → list of choices, or {loguniform: [low, high]}, or {uniform: [low, high]}."""
    trials: Count = 8
    concurrent: Count = 2
    grace_steps: Count = 50
    """No trial is stopped before this step."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """ASHA keeps one in this many at each rung."""


class RecipeCacheSpec(Spec):
    """Copies of the data set's shards on each PC's own disk; they change nothing but the time that reading takes.

    Where the inventory gives a PC a `cache`, that is used without being asked for; a recipe's place goes before it.
    """

    path: Path | None = None
    """At the same path on every PC (`~` is each one's home)."""
    quota_gb: Annotated[float, Field(gt=0)] | None = None
    """Most that the copies may take, in units of 10^9 bytes."""
    stage: bool = False
    """Copy shards ahead while training, besides using what `vr data stage` has copied."""

    @model_validator(mode="after")
    def _both(self) -> "RecipeCacheSpec":
        if (self.path is None) != (self.quota_gb is None):
            raise ValueError("path and quota_gb belong together; without both, the inventory's cache of a PC is used")
        return self


class LogSpec(Spec):
    """What is written beside the metrics of every step; not part of a run's identity."""

    tensorboard: bool = True


NO_IDENTITY = ("data", "out", "init", "log", "cache")
"""Keys that change where a run is and what is said of it, not what is computed."""
ADDED_KEYS: dict[str, Any] = {
    "curriculum": [], "init_part": "all", "lora": None, "optim.unfreeze": {}, "optim.name": "adamw",
    "model:dense_frame_transformer.causal": False,
    "objective:separate.mask": "real",
    "objective:separate.stems": ["instrumental"], "objective:separate.loss": "magnitude",
    "objective:separate.losses": {}, "optim.power": 2.0, "optim.cooldown": 0.2, "optim.layer_rule": "geometric",
    "objective:separate.more_vocals": 0.0, "objective:separate.stem_gain_db": 0.0, "objective:separate.invert": 0.0,
    "objective:separate.lose_channel": 0.0, "objective:separate.tilt_db": 0.0,
    "model:dense_frame_transformer.block": "frame_transformer", "model:dense_frame_transformer.positions": "relative",
    "model.answer_scale": 1.0,
}  # fmt: skip
"""Keys that recipes got after the first ids were given, with their defaults: at these they change no id
(`vr_core.config.identity`)."""
REMOVED_KEYS: dict[str, Any] = {"powersgd": {"rank": 4, "start_step": None}}
"""Keys that recipes have had, with the defaults that are still a part of every id."""


class Recipe(Spec):
    """One training run, pretraining or fine-tuning."""

    removed_keys: ClassVar[tuple[str, ...]] = tuple(REMOVED_KEYS)
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)]
    data: Path | None = None
    """The data set's folder, at the same path on every machine."""
    out: Path = RUNS
    """Folder of run folders, on storage that every machine sees."""
    init: Path | None = None
    """A checkpoint or a run folder to start the weights from."""
    needs_init: bool = False
    """Refuse to start without `init`: this recipe makes no sense from scratch."""
    init_reset: tuple[str, ...] = ()
    """Names of parameters that stay fresh, as shell patterns (`output.*`): the rest comes from `init`."""
    init_part: Literal["all", "body"] = "all"
    """body: heads of `init` are taken for stems that the recipe asks for too; other heads are fresh, and listed."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    steps: Count
    model: ModelSpec = DenseFrameTransformerSpec()
    objective: ObjectiveSpec = SeparateSpec()
    batch: BatchSpec = BatchSpec()
    curriculum: tuple[CurriculumSpec, ...] = ()
    optim: OptimSpec = OptimSpec()
    lora: LoraSpec | None = None
    """Where set, the model of `init` stays as it is and low-rank factors beside it are trained."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """auto: bfloat16 autocast where every worker has a GPU with such units, float32 elsewhere. float64: for proofs."""
    validation: ValidationSpec = ValidationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    nonfinite_limit: Annotated[int, Field(ge=0)] = 10
    """Steps in a row with a non-finite loss or gradient that are skipped before the run stops."""
    workers: WorkersSpec = WorkersSpec()
    nodes: NodesSpec | None = None
    """Where set, the run has a worker for each GPU of each such machine (or one for each, without GPUs)."""
    sync: SyncName | Literal["auto"] | AutoSyncSpec = "plain"
    """How gradients travel. auto: chosen at the run's first start from measured speeds and links, and kept."""
    diloco: DilocoSpec = DilocoSpec()
    tune: TuneSpec | None = None
    log: LogSpec = LogSpec()
    cache: RecipeCacheSpec | None = None
    """Not part of a run's identity."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        ends = [row.until_step for row in self.curriculum]
        if ends != sorted(set(ends)) or (ends and ends[-1] >= self.steps):
            raise ValueError(f"curriculum: until_step must rise from row to row and end before step {self.steps}")
        late = [pattern for pattern, step in self.optim.unfreeze.items() if step >= self.steps]
        if late:
            raise ValueError(f"optim.unfreeze: {late[0]!r} would never be trained in {self.steps} steps; use freeze")
        if self.nodes is not None and (self.workers.count != 1 or self.workers.labels):
            raise ValueError("nodes says where the workers are, and how many: leave out workers.count and .labels")
        if self.nodes is not None and self.nodes.min > self.batch.items:
            raise ValueError(f"nodes.min {self.nodes.min} is more than batch.items {self.batch.items}")
        most = getattr(self.model, "crop_frames", None)
        longest = max([self.batch.crop_frames, *(row.crop_frames for row in self.curriculum)])
        if most is not None and longest > most:
            raise ValueError(f"batch.crop_frames {longest}: {self.model.name} hears at most model.crop_frames {most}")
        ways = self.sync.auto if isinstance(self.sync, AutoSyncSpec) else (self.sync,)
        if self.optim.name == "schedule_free" and "diloco" in ways:
            raise ValueError("optim.name schedule_free: its two sets of weights do not go with local steps; use adamw")
        if self.workers.count > self.batch.items:
            raise ValueError(f"workers.count {self.workers.count} is more than batch.items {self.batch.items}")
        if len(self.workers.labels) not in (0, 1, self.workers.count):
            raise ValueError(f"workers.labels must hold one entry, or one for each of {self.workers.count} workers")
        return self

    @property
    def needs_phase(self) -> bool:
        """Whether items are read with their phase: for the objective, or for what the model hears."""
        return self.objective.signals.phase or self.model.front.takes_phase

    @property
    def local_from_step(self) -> int:
        """With `diloco`: the steps that are computed whole by every worker before local ones begin."""
        start = self.diloco.start_step
        return min(self.steps // 2, LOCAL_FROM_STEP) if start is None else min(start, self.steps)

    @property
    def sync_choices(self) -> tuple[SyncName, ...]:
        """The ways that the run may take, the most exact first.

        Raises:
            ConfigError: only powersgd, which is no more.
        """
        if self.sync == "auto":
            return AUTO_SYNC
        named = self.sync.auto if isinstance(self.sync, AutoSyncSpec) else (self.sync,)
        choices = tuple(name for name in SYNC_NAMES if name in named)
        if not choices:
            raise ConfigError(f"recipe {self.name}: {POWERSGD_IS_GONE}")
        return choices

    def digest(self) -> str:
        """8 hex digits of the resolved recipe without paths and logging: the middle of a run's id."""
        return digest(identity(plain(self), without=NO_IDENTITY, added=ADDED_KEYS, removed=REMOVED_KEYS))
