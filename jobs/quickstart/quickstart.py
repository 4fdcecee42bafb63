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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.installation import require_plain_installation
from dataprep.roles import USUAL_SPLIT
from jobs.errors import RunExists, RunFailed, SongsFailed
from jobs.execution.launch import raise_for
from jobs.queue.client import follow
from jobs.queue.submit import start, submitted_runs
from jobs.quickstart.folder import QuickstartSpec, alone, take
from jobs.quickstart.head import BorrowedHead
from jobs.quickstart.signals import signals_as_interrupts
from jobs.quickstart.stages import Stages
from jobs.recipe import Recipe
from jobs.recipes.shipped import recipe_file
from jobs.reports.display import display
from jobs.runs.creation import create_run, repeats, resolve_paths
from jobs.runs.folder import RunFolder
from jobs.runs.lookup import resolve_weights
from jobs.runs.state import RunState
from vr_core.config import load, plain, validate
from vr_core.small_files import expanded

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.scoring.evaluate import Bar


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
    require_plain_installation()
    folder = expanded(folder).absolute()
    take(folder, spec)
    stages = Stages(console)
    with alone(folder), signals_as_interrupts():
        with stages.stage("songs", f"{spec.songs} invented ones of {spec.seconds:g} s in {folder / 'songs'}"):
            make_songs(folder / "songs", spec, stages)
        with stages.stage("data set", f"their spectrograms, in {folder / 'data'}"):
            _prepare(folder, spec, stages)
        with BorrowedHead(keep, stages) as cluster:
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
        report = prepare(
            tracks, folder / "data", None, lambda now: done(now.done_s), split=parse_fractions(USUAL_SPLIT)
        )
    if report.failed:
        raise SongsFailed("; ".join(why for _, why in report.failed))


def _trained(
    folder: Path, stage: Literal["pretraining", "fine-tuning"], init: RunFolder | None, cluster: BorrowedHead,
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
            start(head, run, recipe)
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
    from dataprep.audio.files import open_audio
    from dataprep.audio.writing import write_audio
    from jobs.scoring.evaluate import evaluate, labelled_songs, open_mixture
    from jobs.scoring.separate import OutputSettings, pick_device, separate_song
    from vr_core.loading import load_model

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
        "song": song.id, "mixture": mixture, **files.stems,
        "picture": files.picture, "before_db": mean["do_nothing_db"], "after_db": mean["sdr_db"],
    }  # fmt: skip
