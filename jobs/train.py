"""The one training loop: every recipe, one worker or many, from the first step or from a checkpoint.

Read `train` top to bottom. A step covers exactly `batch.items` items of the endless order, whoever computes them; the
position is one integer, `step × batch.items`; and nothing in a step depends on the clock or on a global generator.
That is why a killed and resumed run ends where an undisturbed one ends.

Workers tell each other what happened with every step; with `sync: diloco` at the end of every round of steps
(`jobs.local_steps`), and what a step is worth knowing for (metrics, shares, validation, checkpoints) waits until then.
"""

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dataprep.batches import TAKEN_AHEAD, Loader, read_batch
from dataprep.dataset import Dataset
from dataprep.locality import StepCut, shard_names
from dataprep.order import Item, Order, cut, fixed_items, shards_read
from dataprep.staging import BackgroundStaging
from jobs.background import BackgroundCheckpoints
from jobs.checkpoint import best_loss
from jobs.errors import RunFailed, RunLeft, RunStopped
from jobs.exchange import BusyClock, Company, Compression, exchanging
from jobs.gradient import add_gradients, autocast, has_bf16, loss_function, weights_dtype
from jobs.local_steps import LocalSteps
from jobs.memory import keep_freed_memory
from jobs.metrics_log import MetricsLog
from jobs.own_disk import OwnDisk, copies_of
from jobs.recipe import Recipe, RecipeCacheSpec
from jobs.resume import newest_checkpoint, restore, restore_own, start_from
from jobs.runs import RunFolder
from jobs.shares import Pace
from jobs.speed import (
    devices_of_all,
    keep_or_note,
    keep_others,
    key_of,
    less_after_out_of_memory,
    note_first_step,
    speed_here,
    speeds_of_all,
)
from jobs.starts import Start, begin_start
from jobs.storage import open_data
from vr_core.errors import ConfigError
from vr_core.models import build
from vr_core.optim import WeightAverage, adamw, global_norm, learning_rate_factor, set_rates
from vr_core.weights import WeightsMeta

Report = Callable[[dict[str, float]], None]

_VALIDATION_SEED = 2**31
"""Apart from every recipe's seed: validation hides the same frames in every run."""
_WISH_POLL_S = 1.0
"""Between two looks for the files that ask the loop to stop, or to leave its machines."""


def train(
    recipe: Recipe,
    run_path: Path,
    *,
    rank: int,
    world: int,
    device: torch.device,
    report: Report | None,
    start: Start | None = None,
    opens: Callable[[Path, RecipeCacheSpec | None, str | None], Dataset] = open_data,
) -> dict[str, float]:
    """Train `recipe` to its last step, from the newest good checkpoint in the run's folder.

    Args:
        recipe: resolved, with absolute paths.
        run_path: the run's folder, which every rank sees; rank 0 writes checkpoints and metrics into it.
        rank: of this process; `torch.distributed` is initialised where `world` > 1.
        world: processes that train together.
        device: of this rank.
        report: called with finite numbers at the same steps on every rank: validations and the end.
        start: of the workers, as the run's driver counts them; by default the next one.
        opens: the data set in a folder, as `jobs.storage.open_data`.

    Returns:
        `step`, `loss` of the last step, `validation_loss` and `best_validation_loss` where there is validation.

    Raises:
        RunStopped: the run's stop file appeared; a checkpoint was written first.
        RunLeft: the run's leave file appeared; a checkpoint was written first.
        WorkersLeftOut: steps would be shorter without some of the workers; a checkpoint was written of what was done.
        RunFailed: more non-finite steps in a row than the recipe allows.
        ConfigError, ManifestError, WeightsError: recipe, data set and start do not fit together.
        StorageError: a checkpoint could not be written, or the disk or the share with them failed.
        NewerStart: a newer start of the run's workers has begun.
    """
    if device.type == "cpu":
        keep_freed_memory()
    run = RunFolder(run_path)
    start = _begun(run, start, rank, world, device)
    own_disks = recipe.checkpoint.own_disk_every_s is not None
    copies = copies_of(run) if own_disks else None
    checkpoint = newest_checkpoint(run, rank, world, device, _note, own_disks, copies)
    # The order of items is a function of the data set: a run goes on with the version that it began with.
    version = checkpoint.training["data"] if checkpoint else None
    data = opens(_require(recipe.data), recipe.cache, version)
    stft = data.manifest.stft
    order = Order.of(data.manifest, recipe.objective, recipe.seed, recipe.batch.crop_frames)
    held_out = fixed_items(data.manifest, recipe.objective, recipe.batch.crop_frames, recipe.validation.items)

    torch.manual_seed(recipe.seed)  # initial weights only: nothing later draws from it
    model: nn.Module = build(recipe.model, stft.bins)
    if checkpoint is None and recipe.init is not None:
        start_from(model, recipe.init, recipe.init_reset, data)
    model.to(device, weights_dtype(recipe))
    optimiser = adamw(model, recipe.optim)
    average = WeightAverage(model, recipe.optim.ema_decay) if recipe.optim.ema_decay else None
    step, skipped_in_a_row = 0, 0
    if checkpoint is not None:
        step, skipped_in_a_row = restore(checkpoint, model, optimiser, average)
    trained = [p for p in model.parameters() if p.requires_grad]
    clock = BusyClock(device)
    bf16 = torch.tensor(int(has_bf16(device)), device=device)
    if world > 1:  # what one card cannot do none does: every item is computed alike, whoever gets it
        dist.all_reduce(bf16, dist.ReduceOp.MIN)
    cast = autocast(recipe, device, bool(bf16))

    items = recipe.batch.items
    needed = shards_read(data.manifest, recipe.objective)
    steps = StepCut(order, data.manifest, who_has_what(data, needed, world, device))
    losses_of = loss_function(recipe, device, cast)
    speed_key = key_of(recipe, stft.bins, device, bool(bf16))
    speed = speed_here(recipe, speed_key, model, losses_of, data, order, device)
    size = speed.micro_batch
    # What is read ahead is cut already: each step is one batch at least.
    speeds = speeds_of_all(speed, world, device)
    if world > 1:
        keep_others(speed_key, devices_of_all(speed_key, world, device), speeds)
    company = Company(
        recipe, trained, speeds, rank, world, device, checkpoint.training.get("exchange") if checkpoint else None
    )
    company.require_worth(speeds)
    local = compression = None
    if company.sync == "diloco":
        local = LocalSteps(recipe, model, company.behind_steps, rank, world)
    elif company.sync == "powersgd" and world > 1:
        compression = Compression(recipe)
    if checkpoint is not None:
        restore_own(checkpoint, rank, world, optimiser, model, local, compression)
    agreed = local.agreed if local else model
    shadow = deepcopy(agreed).eval() if average else agreed
    round_steps = recipe.diloco.every_steps if local else 1
    pace = Pace(
        speeds, items, step, TAKEN_AHEAD + round_steps,
        measured=recipe.workers.shares == "measured", whole_until=recipe.local_from_step if local else 0,
    )  # fmt: skip

    def rehearse(over: nn.Module) -> None:
        losses_of(over, read_batch(data, order.items(0, 1)), recipe.seed, training=True).sum().backward()  # type: ignore[no-untyped-call]

    parallel = model
    if world > 1 and local is None:
        parallel = exchanging(model, company.sync, clock, compression, rehearse if compression else None)

    def whole(step: int) -> bool:
        """Whether every worker computes all items of the step after `step` steps."""
        return local is not None and local.whole(step)

    def micro_batches(step: int) -> list[tuple[Item, ...]]:
        of_step = order.items(step * items, items) if whole(step) else steps.items_of(step, rank, pace.shares(step))
        mine = iter(of_step)
        return [tuple(itertools.islice(mine, count)) for count in pace.pieces(step, rank)]

    def validate() -> float:
        if average is not None:
            shadow.load_state_dict(average.weights)
        mine = cut(0, pace.split(len(held_out)))[rank]
        total = torch.zeros((), dtype=torch.float64, device=device)
        with (
            torch.inference_mode(),
            contextlib.closing(
                Loader(data, ((held_out[at : min(at + size, mine[1])]) for at in range(*mine, size)), device)
            ) as loader,
        ):
            for batch in loader:
                total += losses_of(shadow, batch, _VALIDATION_SEED, training=False).double().sum()
        return float(_sum_over_ranks(total, world)) / len(held_out)

    def settle() -> None:
        """The outer step of a round; before local steps, one worker's weights for all."""
        if local is None:
            return
        if whole(step - 1):
            local.agree()
        else:
            steps = local.settle()
            if average is not None:
                average.update(local.agreed, step, steps)

    def save(validation_loss: float | None, best: bool, *, to_share: bool = True) -> None:
        own: dict[str, Any] = {}
        if local is not None:
            if whole(step - 1):
                local.follow()
            own = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        elif compression is not None:
            own = {"left_out": compression.own()}
        if checkpoints and rank and own:
            checkpoints.save_part(step, rank, own)
        if metrics:
            metrics.flush()
        writer: BackgroundCheckpoints | None = own_disk
        if to_share:
            writer = checkpoints if rank == 0 else None
        if writer:
            weights = average.weights if average else agreed.state_dict()
            meta = WeightsMeta(
                model=recipe.model, stft=stft, crop_frames=recipe.batch.crop_frames, step=step, run=run.id
            )
            training = {
                "model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
                "skipped_in_a_row": skipped_in_a_row, "position": step * items, "data": data.manifest.digest(),
                "exchange": company.kept, "world": world, "own": own.get("left_out"),
                "diloco": local.state() if local else None, "powersgd": compression.common() if compression else None,
            }  # fmt: skip
            parts = world - 1 if own else 0
            writer.save(weights, training, meta, step * items, validation_loss, best, parts)

    best, result, first_step = best_loss(run), {"step": float(step)}, step
    metrics = MetricsLog(run, start, step, recipe.log.tensorboard) if rank == 0 else None
    writes = rank == 0 or local is not None or compression is not None
    checkpoints = BackgroundCheckpoints(run, recipe.checkpoint.keep, _note, start) if writes else None
    own_disk = None
    if copies is not None and local is None and compression is None:
        own_disk = OwnDisk(copies, rank, start, _note)
    if rank == 0:
        with contextlib.suppress(OSError):  # the first checkpoint will say so
            run.checkpoints.mkdir(exist_ok=True)
    batches = (piece for k in itertools.count(step) for piece in micro_batches(k))
    staging = BackgroundStaging(data, _note) if recipe.cache and recipe.cache.stage and data.has_cache else None
    with (
        metrics or contextlib.nullcontext(),
        checkpoints or contextlib.nullcontext(),
        own_disk or contextlib.nullcontext(),
        less_after_out_of_memory(speed_key, lambda: pace.speeds[rank]),
        contextlib.closing(staging) if staging else contextlib.nullcontext(),
        contextlib.closing(Loader(data, batches, device)) as loader,
    ):
        if metrics and company.choice:
            _note(company.choice)
            metrics.write("sync", step, **company.predicted_s)
        idle = company.not_worth_having(speeds)
        if metrics and idle:
            metrics.write("not_worth", step, **idle)
        saved_s = copied_s = polled_s = time.monotonic()
        own_disk_s = recipe.checkpoint.own_disk_every_s or math.inf
        told: list[Tensor] = []  # of the steps since all workers last told each other: one, or a round of them
        seen: list[dict[str, Any]] = []
        clock.begin()
        while step < recipe.steps:
            began_s, waited_s = time.monotonic(), loader.waited_s
            loss_sum, places = torch.zeros((), dtype=torch.float64, device=device), 0
            pieces = len(pace.pieces(step, rank))
            of_items, over = (pace.shares(step)[rank], 1) if local else (items, world)
            for piece in range(pieces):
                batch = next(loader)
                losses = add_gradients(
                    parallel, losses_of, batch, seed=recipe.seed, items=of_items, world=over, last=piece == pieces - 1
                )
                loss_sum += losses.sum()
                places += sum(item.index - step * items for item in batch.items)

            if parallel is model:
                clock.complete()
            stop, leave, due, due_here = False, False, False, False
            if metrics and checkpoints:
                # By the clock only where the one before is written: a slow share makes checkpoints rarer, not steps.
                due = time.monotonic() - saved_s > recipe.checkpoint.every_s and not checkpoints.busy
                due_here = own_disk is not None and time.monotonic() - copied_s > own_disk_s and not own_disk.busy
                if time.monotonic() - polled_s > _WISH_POLL_S:
                    polled_s = time.monotonic()
                    with contextlib.suppress(OSError):  # the share is away: nobody can have wished for anything
                        stop, leave = run.stop_file.exists(), run.leave_file.exists()
            # With the loss, so that all ranks leave after the same step.
            loss = (loss_sum / items).item()
            if whole(step) and rank:  # all have computed the same: it counts once
                loss_sum, places = torch.zeros_like(loss_sum), 0
            wishes = torch.tensor([stop, leave, due, due_here, places], dtype=torch.float64, device=device)
            busy = torch.zeros(world, dtype=torch.float64, device=device)
            busy[rank] = clock.busy_s()
            mine = torch.cat([(loss_sum / items)[None], wishes, busy])
            told.append(mine if local else _sum_over_ranks(mine, world))
            clock.begin()
            norm = global_norm(trained)
            if local is None:
                loss = told[-1][0].item()
            step += 1
            rate = learning_rate_factor(step, recipe.steps, recipe.optim)
            if math.isfinite(loss) and math.isfinite(norm.item()):
                torch.nn.utils.clip_grads_with_norm_(trained, recipe.optim.clip_norm, norm)
                set_rates(optimiser, recipe.optim.lr, rate)
                optimiser.step()
                if average is not None and (local is None or whole(step - 1)):
                    average.update(model, step)
                skipped_in_a_row = 0
            else:
                skipped_in_a_row += 1
                where = nonfinite_report(loss, step, items, order)
                _note(where)
                if skipped_in_a_row > recipe.nonfinite_limit:
                    raise RunFailed(f"run {run.id}: {skipped_in_a_row} steps in a row without a finite loss; {where}")
            optimiser.zero_grad(set_to_none=True)

            if step == first_step + 1:
                note_first_step(speed_key)
            ends, last = local is None or local.ends_round(step), step == recipe.steps
            if local is not None and local.overdue(step):
                settle()
            if local is not None and ends:  # before the deltas, which take long
                told = list(_sum_over_ranks(torch.stack(told), world))
                if not whole(step - 1):
                    round_shares = [pace.shares(k) for k in range(step - len(told), step)]
                    local.begin(step, len(told), [sum(of_worker) for of_worker in zip(*round_shares, strict=True)])
                if last or step == recipe.local_from_step or step % recipe.validation.every_steps == 0:
                    settle()
            took_s = time.monotonic() - began_s
            seen.append({
                "step": step, "lr": recipe.optim.lr * rate, "grad_norm": norm.item(), "items_per_s": items / took_s,
                "data_wait": (loader.waited_s - waited_s) / took_s, "skipped": skipped_in_a_row,
                "step_s": round(took_s, 6), "shares": list(pace.shares(step - 1)),
            })  # fmt: skip
            if not ends:
                continue

            recut, before = None, step - len(seen)
            stop, leave, due, due_here = False, False, False, False
            for one, values in zip(seen, torch.stack(told).tolist(), strict=True):
                loss, wished, busy_s = values[0], values[1:5], values[6:]
                if values[5] != items * (items - 1) / 2:  # each rank works out by itself which items are its own
                    raise RunFailed(
                        f"run {run.id}: step {one['step']} was not shared out once; has every PC the same versions?"
                    )
                stop, leave, due, due_here = (
                    bool(a) or b for a, b in zip(wished, (stop, leave, due, due_here), strict=True)
                )
                newest = pace.observe(one["step"] - 1, busy_s)
                recut = newest or recut
                if metrics:
                    metrics.write("step", **one, loss=loss, busy_s=[round(s, 6) for s in busy_s])
                    if newest is not None:
                        metrics.write(
                            "shares", one["step"], shares=list(newest), item_s=[s.item_s for s in pace.speeds]
                        )  # fmt: skip
            told, seen = [], []
            result |= {"step": float(step), "loss": loss}

            left_out = company.slower_with(pace.speeds) if recut is not None else None
            leave = leave or left_out is not None
            validated, improved = None, False
            if held_out and (last or step % recipe.validation.every_steps == 0):
                validated = validate()
                # In this order a NaN neither improves nor stays: every comparison with it is false.
                improved, best = validated < best, min(best, validated)
                result |= {"validation_loss": validated, "best_validation_loss": best}
                if metrics:
                    metrics.write("validation", step, loss=validated)
                clock.begin()  # no part of a step
            every = recipe.checkpoint.every_steps
            due = due or (every is not None and step // every > before // every)
            # Within a streak of skipped steps retention would let the last good checkpoint go; a worker that skips
            # its own is no such streak.
            if last or improved or stop or leave or (due and (local is not None or not skipped_in_a_row)):
                save(validated if validated is not None and math.isfinite(validated) else None, improved)
                saved_s = copied_s = time.monotonic()
                clock.begin()
            elif due_here and not skipped_in_a_row:
                save(None, False, to_share=False)
                copied_s = time.monotonic()
                clock.begin()
            if own_disk is not None and (last or stop):
                own_disk.forget()
            if checkpoints and (last or stop or leave):
                checkpoints.wait()
            if checkpoints and metrics:
                for done in checkpoints.written():
                    metrics.write("checkpoint", done.step, stopped_s=done.stopped_s, wrote_s=done.wrote_s)
            if report is not None and (last or validated is not None):
                report({name: value for name, value in result.items() if math.isfinite(value)})
            if last or stop or leave or recut is not None:
                keep_or_note(speed_key, pace.speeds[rank])
            if stop and not last:
                raise RunStopped(f"run {run.id} was asked to stop at step {step}; go on with `vr jobs resume {run.id}`")
            if left_out is not None and not last:
                raise left_out
            if leave and not last:
                raise RunLeft(f"run {run.id} left its machines at step {step}")
    return result


def who_has_what(data: Dataset, needed: frozenset[str], world: int, device: torch.device) -> np.ndarray:
    """`[rank, shard]`: which shards of the data set each rank has on its own disk, as `StepCut` wants it.

    Raises:
        StorageError, ShardError: shards that the run reads (`needed`) cannot be read from here.
    """
    local = data.require(needed).local
    # What the run does not read makes no difference between ranks.
    mine = torch.tensor([name in local or name not in needed for name in shard_names(data.manifest)], device=device)
    told = [mine.to(torch.uint8)] * world
    if world > 1:
        told = [torch.empty_like(told[0]) for _ in range(world)]
        dist.all_gather(told, mine.to(torch.uint8))
    return torch.stack(told).cpu().numpy().astype(bool)


def nonfinite_report(loss: float, step: int, items: int, order: Order) -> str:
    """Where a non-finite step happened: the loss or the gradient, the step and the songs in it."""
    songs = sorted({read.song for item in order.items((step - 1) * items, items) for read in item.reads})
    named = ", ".join(songs[:6]) + (f" and {len(songs) - 6} more" if len(songs) > 6 else "")
    return f"step {step} skipped: the {'gradient' if math.isfinite(loss) else 'loss'} is not finite (songs: {named})"


def _sum_over_ranks(value: Tensor, world: int) -> Tensor:
    if world > 1:
        dist.all_reduce(value)
    return value


def _begun(run: RunFolder, start: Start | None, rank: int, world: int, device: torch.device) -> Start:
    """The start that begins now, the same on every rank: before anything of the run is read that it will change."""
    if rank == 0:
        start = begin_start(run, start)
    numbers = torch.tensor([start.attempt, start.number] if start else [0, 0], device=device)
    if world > 1:
        dist.broadcast(numbers, src=0)
    return Start(int(numbers[0]), int(numbers[1]))


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _require(path: Path | None) -> Path:
    if path is None:
        raise ConfigError("the recipe names no data set; add data=FOLDER")
    return path
