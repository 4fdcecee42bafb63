"""Ray Train by itself on a running head, for comparison: how long a group takes to start, and its own elasticity.

    python -m tests.bench.plain_train floor WORKERS FILE     one fit of WORKERS that do nothing
    python -m tests.bench.plain_train elastic WORKERS FILE   an elastic run of up to WORKERS, until it is killed

Writes the Unix times of what happens to FILE, a line each.
"""

import sys
import time
from pathlib import Path
from typing import Any

CHECKPOINT_STEPS = 10


def do_nothing(config: dict[str, Any]) -> None:
    """A worker of `floor`: it is there, and so are the others."""
    import torch.distributed as dist

    dist.barrier()
    if dist.get_rank() == 0:
        note(Path(config["file"]), "started")


def take_steps(config: dict[str, Any]) -> None:
    """A worker of `elastic`: an all-reduce every tenth of a second, a checkpoint now and then."""
    import tempfile

    import ray.train
    import torch
    import torch.distributed as dist

    step = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            step = int((Path(folder) / "step").read_text())
    while True:
        time.sleep(0.1)
        dist.all_reduce(torch.ones(1000))
        step += 1
        if dist.get_rank() == 0:
            note(Path(config["file"]), f"step {step} of {dist.get_world_size()}")
        if step % CHECKPOINT_STEPS == 0:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "step").write_text(str(step))
                mine = ray.train.Checkpoint.from_directory(folder) if dist.get_rank() == 0 else None
                ray.train.report({"step": step}, checkpoint=mine)


def note(file: Path, what: str) -> None:
    """One line with the time."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{time.time():.3f} {what}\n")


def main(kind: str, workers: int, file: Path) -> None:
    """Carry one of the two out."""
    from cluster.node.head import find_head
    from jobs.execution.ray_session import head_ray

    with head_ray(find_head()):
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

        elastic = kind == "elastic"
        trainer = TorchTrainer(
            take_steps if elastic else do_nothing,
            train_loop_config={"file": str(file)},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=(1, workers) if elastic else workers, resources_per_worker={"CPU": 1}
            ),
            run_config=RunConfig(  # type: ignore[arg-type]  # annotated with the class that V2's replaces
                name=file.stem, storage_path=str(file.parent), failure_config=FailureConfig(max_failures=-1)
            ),
        )
        note(file, "fit")
        trainer.fit()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
