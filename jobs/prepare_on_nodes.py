"""Groups of songs prepared on all PCs of the cluster: one Ray task a group, one core and `TASK_BYTES` of memory each.

Sources and the data set lie on storage that the PCs share; a PC that does not see them takes no part. Ray queues what
does not fit beside what else runs. A group whose PC goes away is prepared once more under another name, so that a
process that was only thought dead writes into nobody's shard; what it leaves is removed at the end. A group that Ray
still queues is then queued anew, which counts as no loss.
"""

import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cluster.node.drain import read_drained
from cluster.node.head import Head
from dataprep.audio.tracks import Track
from dataprep.errors import WorkerError
from dataprep.preparing.group import JOURNALS, GroupPlan
from dataprep.preparing.song import SongSettings
from dataprep.preparing.workers import Failed, GroupDone, Tick, Work
from jobs.errors import Unplaceable
from jobs.execution.placement import NODE_LABEL, Node, live_nodes
from jobs.execution.ray_session import head_ray
from vr_core.errors import StorageError, VrError
from vr_core.small_files import read_json

TASK_BYTES = 3 * 2**29
"""Measured: 1.44 GB at most for songs of 20 minutes, with torch."""
TRIES = 3
_LOOK_S = 30.0
_POLL_S = 0.3
_PATIENCE = 30
"""Polls in which a group should have begun: what runs on the cluster has all cores otherwise."""
_TICK_EVERY_S = 0.5
_SEEN_S = 60.0
_SAMPLE = 64
"""Files that a PC is asked for before it takes part."""
Task = TypeVar("Task")


@dataclass(frozen=True)
class Crew:
    """The PCs that take part."""

    nodes: tuple[Node, ...]
    left_out: tuple[tuple[str, str], ...]
    """(name, why)"""

    @property
    def workers(self) -> int:
        """Groups that can be prepared at once."""
        return sum(int(node.cpus) for node in self.nodes)

    def run(
        self, folder: Path, work: Work, settings: SongSettings, workers: int, tick: Tick, group_done: GroupDone
    ) -> Failed:
        """As `dataprep.preparing.workers.run_groups`, on these PCs.

        At most `workers` groups at once, as far as their cores go.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        ticks: Any = ray.remote(_Ticks).options(num_cpus=0, scheduling_strategy=here).remote()
        names = ",".join(node.labels[NODE_LABEL] for node in self.nodes)
        task = ray.remote(_prepare).options(
            num_cpus=1, memory=TASK_BYTES, max_retries=0, label_selector={NODE_LABEL: f"in({names})"}
        )
        waiting = [Attempt(plan, tracks) for plan, tracks in reversed(work)]
        running: dict[Any, Attempt] = {}
        failed: Failed = []
        dead = self._dead_nodes()
        polls = 0
        begun_on: dict[str, str] = {}
        try:
            while waiting or running:
                polls += 1
                if polls == _PATIENCE and not begun_on:
                    print("waits for a free core; `vr jobs list` shows what runs", file=sys.stderr, flush=True)
                while waiting and len(running) < min(workers, self.workers):
                    attempt = waiting.pop().renamed()
                    own = attempt.plan.model_copy(update={"name": attempt.name})
                    absolute = [_absolute(track) for track in attempt.tracks]
                    running[task.remote(folder.absolute(), own, absolute, settings, ticks)] = attempt
                finished, _ = ray.wait(list(running), timeout=_POLL_S)
                seconds, begun_on = ray.get(ticks.take.remote())
                for song, more_s in seconds.items():
                    tick(song, more_s)
                for ref in finished:
                    attempt = running.pop(ref)
                    try:
                        refused = ray.get(ref)
                    except ray.exceptions.RayTaskError as error:
                        raise (error.cause if isinstance(error.cause, VrError) else error) from None
                    except ray.exceptions.RayError as error:  # its process is gone
                        waiting.append(attempt.after_loss(str(error).splitlines()[0]))
                    else:
                        if len(refused) < len(attempt.tracks):
                            _await_seen(folder, attempt.name)
                        failed += refused
                        group_done(attempt.plan)
                gone = self._dead_nodes() - dead
                if gone:
                    waiting += take_back(running, begun_on, gone, _cancel)
                    dead |= gone
                    self._require_alive()
        finally:
            for ref in running:
                _cancel(ref)
        return failed

    def _require_alive(self) -> None:
        import ray

        alive = {node.name for node in live_nodes(ray.nodes())}  # type: ignore[no-untyped-call]
        if alive.isdisjoint(node.name for node in self.nodes):
            raise WorkerError("all PCs that took part are gone; finished songs are kept: run the command again")

    def _dead_nodes(self) -> set[str]:
        """Ray's ids of the PCs that take part and are dead. A PC that was back and died again has several."""
        import ray

        names = {node.name for node in self.nodes}
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return {node["NodeID"] for node in nodes if not node["Alive"] and node["NodeName"] in names}


class Attempt(NamedTuple):
    """A group that is being prepared or waits for it."""

    plan: GroupPlan
    tracks: Sequence[Track]
    losses: int = 0
    """How often its process was gone, or the PC on which it had begun."""
    name: str = ""
    """Of this attempt: part of its shards' names."""

    def renamed(self) -> "Attempt":
        """The same under a name that no attempt has had."""
        return self._replace(name=f"{self.plan.name}-{secrets.token_hex(3)}")

    def after_loss(self, why: str) -> "Attempt":
        """The attempt that follows this one, which is lost.

        Raises:
            WorkerError: it is the last of `TRIES`.
        """
        losses = self.losses + 1
        if losses == TRIES:
            raise WorkerError(
                f"a group of {len(self.tracks)} songs ({self.tracks[0].id} …) was lost {TRIES} times: {why}; "
                "finished songs are kept: run the same command again"
            )
        return self._replace(losses=losses)


def take_back(
    running: dict[Any, Attempt], begun_on: Mapping[str, str], gone: Collection[str], cancel: Callable[[Any], None]
) -> list[Attempt]:
    """Cancel the tasks that the PCs `gone` keep from going on; what is to be queued in their place.

    One that was queued, or is only thought dead, must not be prepared beside its successor.

    Raises:
        WorkerError: a group was lost `TRIES` times.
    """
    again = given_up(running, begun_on, gone)
    for ref in again:
        del running[ref]
        cancel(ref)
    return list(again.values())


def given_up(
    running: Mapping[Task, Attempt], begun_on: Mapping[str, str], gone: Collection[str]
) -> dict[Task, Attempt]:
    """The tasks to cancel because nodes are gone, each with the attempt that takes its place.

    A group that had begun on one of them is lost. One that has not begun anywhere is queued anew and counts no loss:
    Ray 2.60 says nothing of a task that it was about to start on a PC that went silent, and that task waits on.

    Args:
        running: tasks with their attempts.
        begun_on: name of an attempt → node on which it has begun.
        gone: nodes that took part and have died since the last time.

    Raises:
        WorkerError: a group was lost `TRIES` times.
    """
    again = {}
    for task, attempt in running.items():
        node = begun_on.get(attempt.name)
        if node is None:
            again[task] = attempt
        elif node in gone:
            again[task] = attempt.after_loss("its PC went silent")
    return again


@contextmanager
def crew_of(head: Head, folder: Path, tracks: Sequence[Track]) -> Iterator[Crew]:
    """The PCs of `head` that see the data set's folder and the songs, for as long as the block lasts.

    Args:
        head: the running head.
        folder: of the data set; made where it is missing.
        tracks: what is going to be prepared.

    Raises:
        Unplaceable: no PC sees them.
    """
    with head_ray(head):
        import ray  # not before: it reads the environment that `head_ray` sets

        drained = {node.name for node in read_drained().nodes}
        nodes = sorted(live_nodes(ray.nodes()), key=lambda node: node.name)  # type: ignore[no-untyped-call]
        nodes = [node for node in nodes if node.name not in drained and node.cpus >= 1]
        wanted = _seen_here(tracks)
        with _mark(folder.absolute()) as mark:
            reported = _ask(nodes, [str(mark), *wanted])
        left_out = tuple((node.name, why) for node in nodes if (why := reported[node.name]))
        crew = Crew(tuple(node for node in nodes if not reported[node.name]), left_out)
        if not crew.nodes:
            raise Unplaceable("; ".join(f"{name}: {why}" for name, why in left_out) or "no PC has a free core")
        yield crew


def _seen_here(tracks: Sequence[Track]) -> list[str]:
    """Some of the files, spread over all."""
    paths = [str(sources[0].path.absolute()) for track in tracks for sources in track.stems.values()]
    return paths[:: max(1, len(paths) // _SAMPLE)][:_SAMPLE]


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """A file that only who shares the folder sees."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".seen-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _ask(nodes: Sequence[Node], paths: Sequence[str]) -> dict[str, str]:
    """Name → which of the paths is not there, "" where all are."""
    import ray

    def unseen(paths: Sequence[str]) -> str:
        from pathlib import Path

        missing = [path for path in paths if not Path(path).exists()]
        return f"does not see {missing[0]}; mount it there at the same path" if missing else ""

    # No core: a PC that is busy with a run answers too.
    asked = {
        node.name: ray.remote(unseen)
        .options(num_cpus=0, label_selector={NODE_LABEL: node.labels[NODE_LABEL]})
        .remote(paths)
        for node in nodes
    }
    said = {}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_LOOK_S)
    for name, ref in asked.items():
        try:
            said[name] = ray.get(ref, timeout=0)
        except Exception as error:
            said[name] = f"does not answer ({type(error).__name__})"
    return said


class _Ticks:
    """An actor that holds what the tasks report until the driver asks."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._nodes: dict[str, str] = {}

    def begin(self, group: str, node_id: str) -> None:
        self._nodes[group] = node_id

    def add(self, seconds: Mapping[str, float]) -> None:
        for song, more_s in seconds.items():
            self._seconds[song] = self._seconds.get(song, 0.0) + more_s

    def take(self) -> tuple[dict[str, float], dict[str, str]]:
        """Seconds of each song since the last time, and the node of each group that was begun."""
        taken, self._seconds = self._seconds, {}
        return taken, self._nodes


def _prepare(folder: Path, plan: GroupPlan, tracks: Sequence[Track], settings: SongSettings, ticks: Any) -> Failed:
    """The task: a group, in a worker process of Ray's."""
    import ray
    import torch

    from dataprep.preparing.group import prepare_group

    ray.get(ticks.begin.remote(plan.name, ray.get_runtime_context().get_node_id()))
    torch.set_num_threads(1)
    held: dict[str, float] = {}
    told_s = time.monotonic()

    def tick(song: str, seconds: float) -> None:
        nonlocal told_s
        held[song] = held.get(song, 0.0) + seconds
        if time.monotonic() - told_s > _TICK_EVERY_S:
            ticks.add.remote(dict(held))
            held.clear()
            told_s = time.monotonic()

    return prepare_group(folder, plan, tracks, settings, tick)


def _cancel(ref: Any) -> None:
    """End a task, whether it has begun or not."""
    import ray

    with suppress(Exception):
        ray.cancel(ref, force=True)


def _await_seen(folder: Path, group: str) -> None:
    """Wait until what another PC wrote is seen from here: a share may show an old listing for a while.

    Raises:
        StorageError: it is not seen within a minute.
    """
    deadline_s = time.monotonic() + _SEEN_S
    while True:
        for path in (folder / JOURNALS).glob(f"{group}.json"):
            if all((folder / name).exists() for name in read_json(path)["shards"]):
                return
        if time.monotonic() > deadline_s:
            raise StorageError(f"{folder}: what another PC wrote there is not seen from here; is it the same share?")
        time.sleep(_POLL_S)


def _absolute(track: Track) -> Track:
    """Its files as other PCs find them."""
    stems = {
        role: tuple(type(source)(source.path.absolute(), source.stream) for source in sources)
        for role, sources in track.stems.items()
    }
    return Track(track.id, stems)
