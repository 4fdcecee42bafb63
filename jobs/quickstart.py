"""The whole path on this machine, with invented songs: data set, Ray head, two runs as Ray jobs, a separated song.

Everything lies in one folder:

    quickstart.json   what the folder was made with
    songs/  data/     the invented songs, and the data set made of them
    runs/             a pretraining run and a fine-tuning run that starts from it
    separated/        a song of the test split: its mixture, instrumental, vocals and picture

In the same folder again, what is finished is used and what is not goes on: training is done once. Only the scores and
the separated song are made each time.
"""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field

from cluster.errors import NoHead
from cluster.facts import look
from cluster.node.head import Head, all_joined, find_head, state_folder
from cluster.node.lifecycle import start_head, stop, unchanging
from cluster.node.processes import alive
from cluster.node.ray_start import node_start
from jobs.errors import FolderTaken, RunExists, RunFailed, SongsFailed
from jobs.execution.launch import raise_for
from jobs.queue.client import follow, stop_run
from jobs.queue.keeper import KEEPER
from jobs.queue.submit import LIVE_JOB, job_states, start, submitted_runs
from jobs.queue.table import Ledger
from jobs.recipe import Recipe
from jobs.recipes.shipped import recipe_file
from jobs.reports.display import display
from jobs.runs.creation import create_run, repeats, resolve_paths
from jobs.runs.folder import RunFolder
from jobs.runs.lookup import resolve_weights
from jobs.runs.state import LIVE, RunState
from vr_core.config import Spec, load, plain, validate
from vr_core.errors import ConfigError
from vr_core.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.scoring.evaluate import Bar

NOTE = "quickstart.json"
LOCK = ".lock"
STAGES = ("songs", "data set", "Ray head", "pretraining", "fine-tuning", "separation")
SPLIT = "valid=0.1,test=0.1,seed=0"


class QuickstartSpec(Spec):
    """What a quickstart's folder is made with; kept in it."""

    songs: Annotated[int, Field(ge=3, le=999)] = 8
    """One at least for training, for validation and for the scores."""
    seconds: Annotated[float, Field(ge=5, le=600)] = 20.0
    """Length of each song."""
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class QuickstartResult:
    """Where everything lies, and how good it is."""

    folder: Path
    song: str
    """The one that was separated: no training has seen it."""
    mixture: Path
    instrumental: Path
    vocals: Path
    picture: Path
    checkpoint: Path
    """The weights that separated it."""
    pretraining: str
    finetuning: str
    """Ids of the two runs, which lie in `folder`/runs."""
    before_db: float
    """SDR of the mixture taken as instrumental: doing nothing; the mean over the songs of the test split."""
    after_db: float
    dashboard: str | None
    """Address of the head's dashboard where the head is left running."""
    token_file: Path | None
    """What the dashboard asks for."""
    seconds: dict[str, float]
    """What each stage took."""

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values."""
        values = {name: str(v) if isinstance(v, Path) else v for name, v in vars(self).items()}
        return {**values, "improvement_db": self.after_db - self.before_db}


@dataclass
class Stages:
    """Says on stderr what is being done, and keeps how long it took."""

    console: "Console"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announce the stage `name` as `text`; when the block has ended, say how long it took."""
        number = STAGES.index(name) + 1
        self.say(f"[{number}/{len(STAGES)}] {name}: {text}")
        began_s = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began_s, 1)
        self.say(f"      done in {self.seconds[name]:.0f} s")

    @contextlib.contextmanager
    def bar(self, total_s: float) -> Iterator[Callable[[float], None]]:
        """A bar over seconds of audio, where a terminal shows it; yields what to call with the seconds done."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} s of audio"), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task("", total=total_s)
            yield lambda done_s: progress.update(task, completed=done_s)

    def say(self, text: str) -> None:
        """One line, as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def quickstart(folder: Path, spec: QuickstartSpec, keep: bool, console: "Console", bar: "Bar") -> QuickstartResult:
    """Go the whole path in `folder`.

    A head that runs already is used and left running. One that is started here ends with the call, unless `keep` is
    given or other jobs run on it; after Ctrl-C, SIGTERM or a failure it always ends, and the run under way is stopped.

    Args:
        folder: new, empty, or of an earlier quickstart with the same `spec`.
        spec: what to make.
        keep: leave the head running.
        console: of stderr.
        bar: shows how far the scores are.

    Raises:
        FolderTaken: the folder holds something else, or another quickstart works in it.
        ConfigError: the folder was made with another `spec`.
        ClusterError, ClusterFailure: no head can be started here.
        RunFailed, UserError: a run failed.
    """
    folder = folder.expanduser().absolute()
    take(folder, spec)
    stages = Stages(console)
    with _alone(folder), signals_as_interrupts():
        with stages.stage("songs", f"{spec.songs} invented ones of {spec.seconds:g} s in {folder / 'songs'}"):
            make_songs(folder / "songs", spec, stages)
        with stages.stage("data set", f"their spectrograms, in {folder / 'data'}"):
            _prepare(folder, spec, stages)
        with _Cluster(keep, stages) as cluster:
            pretraining = _trained(folder, "pretraining", None, cluster, stages)
            finetuning = _trained(folder, "fine-tuning", pretraining, cluster, stages)
        kept = cluster.left_running
        with stages.stage("separation", "of songs that no training has seen, with scores"):
            found = _separate(folder, finetuning, bar)
        return QuickstartResult(
            folder=folder, **found, checkpoint=resolve_weights(finetuning.path), pretraining=pretraining.id,
            finetuning=finetuning.id, dashboard=kept.dashboard_url if kept else None,
            token_file=kept.token_file if kept else None, seconds=stages.seconds,
        )  # fmt: skip


def take(folder: Path, spec: QuickstartSpec) -> None:
    """Make `folder`, or check that it is of a quickstart with the same `spec`.

    Raises:
        FolderTaken: it is something else, or cannot be written.
        ConfigError: it was made with another `spec`.
    """
    note = folder / NOTE
    if folder.exists() and not folder.is_dir():
        raise FolderTaken(f"{folder}: is a file; give a new folder")
    if note.is_file():
        try:
            earlier = validate(QuickstartSpec, json.loads(note.read_bytes()), str(note))
        except (ValueError, ConfigError):
            raise FolderTaken(f"{note}: damaged; delete {folder}, or give a new folder") from None
        if earlier != spec:
            raise ConfigError(
                f"{folder}: was made with --songs {earlier.songs} --seconds {earlier.seconds:g}; give the same, "
                "or a new folder"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise FolderTaken(f"{folder}: is not empty, and not from vr quickstart; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(note, plain(spec))
    except OSError as error:
        raise FolderTaken(f"{folder}: cannot be written ({error.strerror}); give another folder") from None


Step = Literal["use", "go on", "new"]


def next_step(earlier: Sequence[RunState]) -> Step:
    """What to do about a recipe with these runs, oldest first: use the newest, go on with it, or make one."""
    if not earlier:
        return "new"
    return "use" if earlier[-1].state == "finished" else "go on"


def make_songs(folder: Path, spec: QuickstartSpec, stages: Stages) -> None:
    """Write the invented songs that are not there yet."""
    from dataprep.synth.songs import write_songs

    # Not written again: new files would be prepared again.
    wanted = [folder / f"song{n:03d}" / f"{stem}.wav" for n in range(1, spec.songs + 1) for stem in _STEMS]
    if not all(path.is_file() for path in wanted):
        with stages.bar(spec.songs * spec.seconds) as done:
            for number, _ in enumerate(write_songs(folder, spec.songs, spec.seconds, spec.seed), start=1):
                done(number * spec.seconds)


_STEMS = ("vocals", "instrumental")


def _prepare(folder: Path, spec: QuickstartSpec, stages: Stages) -> None:
    from dataprep.audio.tracks import find_tracks
    from dataprep.preparing.prepare import prepare
    from dataprep.shards.splits import parse_fractions

    tracks = find_tracks([folder / "songs"]).tracks
    with stages.bar(spec.songs * spec.seconds) as done:
        report = prepare(tracks, folder / "data", None, lambda now: done(now.done_s), split=parse_fractions(SPLIT))
    if report.failed:
        raise SongsFailed("; ".join(why for _, why in report.failed))


class _Cluster:
    """The head that runs here, else one that is started when it is first needed and ends with the block."""

    def __init__(self, keep: bool, stages: Stages) -> None:
        self.facts = look()
        self.left_running: Head | None = None
        """After the block."""
        self._keep = keep
        self._stages = stages
        self._head: Head | None = None
        self._started = False
        self._runs: list[RunFolder] = []

    def __enter__(self) -> "_Cluster":
        self._head = self.left_running = running_head()
        if self._keep:
            self.head()
        return self

    def head(self) -> Head:
        """The head; started where none runs."""
        if self._head is None:
            with self._stages.stage("Ray head", "started on free ports, for this machine alone"):
                self._head, self._started = start_head(node_start(self.facts, port_base=0), [KEEPER])
        elif "Ray head" not in self._stages.seconds:
            with self._stages.stage("Ray head", f"the one at {self._head.gcs_address} runs already"):
                pass
        return self._head

    @contextlib.contextmanager
    def carrying(self, run: RunFolder) -> Iterator[None]:
        """The run in the block is stopped when the block of the cluster fails."""
        self._runs.append(run)
        yield

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            with signals_ignored():
                self._interrupt()
        elif self._head is not None and self._started:
            if self._keep or self._has_other_jobs(self._head):
                self.left_running = self._head
            else:
                stop()

    def _interrupt(self) -> None:
        """End the run under way, and the head if it was started here."""
        live = [run for run in self._runs if run.state().state in LIVE]
        if live or self._started:
            self._stages.say("ending what was started (some seconds)")
        if not self._started:
            for run in live:
                stop_run(run, self._head)
            return
        for run in live:
            # Otherwise the keeper of a later head would go on with it.
            Ledger(state_folder()).want_stopped(run.id)
        stop()
        for run in live:
            if run.state().state in LIVE:
                run.give_notice("stopped", "vr quickstart was interrupted")

    def _has_other_jobs(self, head: Head) -> bool:
        ours = tuple(f"{run.id}.a" for run in self._runs)
        others = [
            job for job, state in job_states(head).items() if state in LIVE_JOB and not (ours and job.startswith(ours))
        ]
        if others:
            self._stages.say(f"the head is left running: it also runs {', '.join(others)}")
        return bool(others)


def running_head(find: Callable[[], Head] = find_head) -> Head | None:
    """The head that runs here, looked for by `find` while no other process starts or ends one.

    Raises:
        NoHead: this PC is a worker of another's.
    """
    try:
        # One that another quickstart is ending still answers for seconds, and would take no job.
        with unchanging():
            return find()
    except NoHead:
        if any(alive(joined.ray) for joined in all_joined()):
            raise
        return None


def _trained(
    folder: Path, stage: Literal["pretraining", "fine-tuning"], init: RunFolder | None, cluster: _Cluster,
    stages: Stages,
) -> RunFolder:  # fmt: skip
    """The finished run of a stage, as a Ray job where it is not finished yet."""
    shipped = load(Recipe, recipe_file(_RECIPES[stage]))
    workers = {**plain(shipped.workers), "cpus": min(shipped.workers.cpus, cluster.facts.cpus)}
    paths = {"data": folder / "data", "out": folder / "runs", "init": init.path if init else None}
    recipe = resolve_paths(validate(Recipe, {**plain(shipped), **paths, "workers": workers}, shipped.name))
    earlier = repeats(recipe)
    step = next_step([run.state() for run in earlier])
    if step == "use":
        with stages.stage(stage, f"{earlier[-1].id} is finished already"):
            return earlier[-1]
    head = cluster.head()
    run = create_run(recipe, reserved=submitted_runs()) if step == "new" else earlier[-1]
    with (
        stages.stage(stage, f"{run.id}, {recipe.steps} steps, as a Ray job; dashboard {head.dashboard_url}"),
        cluster.carrying(run),
    ):
        # The keeper of a head that was there before may carry it already.
        with contextlib.suppress(RunExists):
            start(head, run)
        with display(run) as shown:
            state = follow(run, shown.show)
        raise_for(run, state)
        if state.state != "finished":
            raise RunFailed(f"run {run.id} was {state.state} at step {state.step} ({state.why}); start again to go on")
    return run


_RECIPES = {"pretraining": "quickstart-pretrain", "fine-tuning": "quickstart-finetune"}


def _separate(folder: Path, run: RunFolder, bar: "Bar") -> dict[str, Any]:
    """Scores over the test split, and one song of it as files: fields of the result."""
    from dataprep.audio.decoders import AudioSource
    from dataprep.audio.files import open_audio, write_audio
    from jobs.scoring.evaluate import evaluate, labelled_songs, open_mixture
    from jobs.scoring.separate import OutputSettings, pick_device, separate_song
    from vr_core.weights import load_model

    evaluation = evaluate(run.path, folder / "data", bar=bar)
    if evaluation.problems:
        raise SongsFailed("; ".join(why for _, why in evaluation.problems))
    mean = evaluation.plain()["mean"]
    device = pick_device("auto")
    model, meta = load_model(resolve_weights(run.path), device)
    song = labelled_songs(folder / "data", "test", meta.stft)[0]
    mixture = folder / "separated" / f"{song.id}.wav"
    rate_hz = meta.stft.sample_rate_hz
    write_audio(mixture, open_mixture(song, rate_hz), rate_hz)
    files = separate_song(
        lambda: open_audio(AudioSource(mixture), rate_hz), song.id, model, meta, OutputSettings(mixture.parent), device
    )
    return {
        "song": song.id, "mixture": mixture, "instrumental": files.instrumental, "vocals": files.vocals,
        "picture": files.picture, "before_db": mean["do_nothing_db"], "after_db": mean["sdr_db"],
    }  # fmt: skip


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise FolderTaken(f"{folder}: another vr quickstart works in it; wait until it has ended") from None


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does, so that nothing is left running."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    # One that is ignored (nohup) stays ignored.
    with _handled(interrupt, [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]):
        yield


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """What is being cleared away is not interrupted."""
    with _handled(signal.SIG_IGN, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]):
        yield


@contextlib.contextmanager
def _handled(
    handler: Callable[[int, Any], None] | signal.Handlers, numbers: Sequence[signal.Signals]
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
