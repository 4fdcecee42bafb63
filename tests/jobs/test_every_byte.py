"""Each byte set to 0xff, and each length cut: a small file is read, or refused in one line; never anything else.

In process, through each file's own reader. The quick tier tries a spread of places of every file, the long one all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.doctor.links import read_links
from cluster.inventory import Inventory
from cluster.joining.invitations import read_invitations
from cluster.node.drain import Drained, Record, Span, Spans, read_drained, read_spans
from cluster.node.head import keep_inventory, read_head, read_inventory, state_folder, write_member
from cluster.trust.token import create_token, read_token
from dataprep.fingerprints.store import _read as read_fingerprints
from dataprep.preparing.group import announce, journal_entries
from dataprep.shards.manifest import read_manifest, read_second
from dataprep.shards.roots import Roots
from jobs.checkpoints.format import read_newest, verify_checkpoint
from jobs.execution.messages import read_words
from jobs.queue.kept import keep_recipe, kept_recipe
from jobs.queue.table import Ledger
from jobs.recipe import Recipe
from jobs.reports.overview import details, overview
from jobs.reports.trace import machines_of_starts
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import read_driver
from jobs.runs.metrics import read_metrics
from jobs.runs.state_writer import read_events
from jobs.runs.summary import ProgressWriter, read_summary
from jobs.search.folder import Search
from tests.dataprep.data import SETTINGS, labelled
from tests.jobs.checkpoints import write_example
from tests.jobs.job_api import head_record
from tests.recorded.folders import lay_out, run_called
from vr_core.config import load, plain, to_yaml
from vr_core.errors import VrError
from vr_core.files import write_json
from vr_core.weights import load_weights

Read = Callable[[], object]
LARGEST_BYTES = 64 * 1024


def places(content: bytes, most: int | None):
    """The file with a byte of 0xff, and cut, at every place or at `most` spread ones of each kind."""
    stride = 1 if most is None else max(1, -(-len(content) // most))
    for at in range(0, len(content), stride):
        yield f"0xff at {at}", content[:at] + b"\xff" + content[at + 1 :]
        yield f"cut at {at}", content[:at]


def tried(file: Path, read: Read, most: int | None) -> tuple[int, list[str]]:
    """How many were tried, and what came out of those that came out wrong."""
    whole, wrong, count = file.read_bytes(), [], 0
    assert len(whole) <= LARGEST_BYTES, file
    read()
    for what, content in places(whole, most):
        file.write_bytes(content)
        count += 1
        try:
            read()
        except (VrError, OSError) as error:
            if "\n" in str(error) or not str(error):
                wrong.append(f"{what}: {type(error).__name__} of several lines")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}"[:200])
    file.write_bytes(whole)
    return count, wrong


def run_files(folder: Path) -> dict[str, tuple[Path, Read]]:
    """Of a run that has trained, with the reader of each, and with what `vr jobs show` and `list` read of it."""
    runs = lay_out(folder)
    run = RunFolder(run_called("finished", runs).path)
    for step in (200, 201):
        write_example(run, step, float(step), loss=1.0, best=True)
    step = run.checkpoints / "step-00000201"
    run.give_notice("failed", "why")
    run.begin_attempt()
    attempt = run.attempt_folder(run.newest_attempt())
    write_json(attempt / "driver.json", {"boot_id": "b", "machine": "m", "pid": 1, "start_ticks": 2})
    words = {
        "rank": 0,
        "host": "a",
        "message": "no",
        "user_error": False,
        "final": False,
        "storage": False,
        "time_s": 1.0,
    }
    write_json(attempt / "error-1-rank-0.json", {**words, "class": "X", "traceback": "t"})
    run.events_file.write_text('{"time_s": 1, "step": 1, "said": "a"}\n' * 3)
    ProgressWriter(run, 9).tell()

    def shown() -> object:
        return details(run, None), overview(runs, None)

    found: dict[str, tuple[Path, Read]] = {
        "recipe.yaml": (run.recipe_file, run.recipe),
        "state.json": (run.state_file, run.state),
        "state.json, shown": (run.state_file, shown),
        "notice.json": (run.notice_file, run.state),
        "origin.json": (run.origin_file, lambda: (machines_of_starts(run), shown())),
        "events.jsonl": (run.events_file, lambda: read_events(run)),
        "last": (run.checkpoints / "last", lambda: (run.last_step(), shown())),
        "checkpoint.json": (step / "checkpoint.json", lambda: (read_newest(run), verify_checkpoint(step))),
        "weights.safetensors": (step / "weights.safetensors", lambda: load_weights(step / "weights.safetensors")),
        "training.pt": (step / "training.pt", lambda: read_newest(run)),
        "driver.json": (attempt / "driver.json", lambda: read_driver(run, run.newest_attempt())),
        "error.json": (attempt / "error-1-rank-0.json", lambda: read_words(attempt, 1)),
    }
    for file in sorted(run.path.glob("metrics*.jsonl")) + sorted(run.metrics.glob("*.jsonl")):
        if file.stat().st_size:
            found[file.name] = (file, lambda: list(read_metrics(run)))
    if run.summary_file.exists():
        found["summary.json"] = (run.summary_file, lambda: read_summary(run))
    return found


def search_files(folder: Path) -> dict[str, tuple[Path, Read]]:
    search = Search(run_called("searched", lay_out(folder)).path)
    search.write_rows()
    return {
        "search.yaml": (search.recipe_file, search.recipe),
        "trials.json": (search.trials_file, search.rows),
    }


def state_files(folder: Path) -> dict[str, tuple[Path, Read]]:
    home = state_folder()
    head = head_record(folder, 8265, "b" * 32)
    write_member(home / "head.json", head)
    create_token(home / "token")
    keep_inventory(Inventory.model_validate_json('{"nodes": [{"name": "a", "address": "10.0.0.1", "role": "head"}]}'))
    drained = Drained(name="study", by="user", since_s=1.0, leaves_s=2.0)
    write_json(home / "drained.json", plain(Record(nodes=(drained,))))
    write_json(home / "drained-for.json", plain(Spans(nodes=(Span(name="a", since_s=1, boot_id="b", over_s=3),))))
    write_json(home / "links.json", {"links": [{"ends": ["a", "b"], "mbit": 940.0}]})
    write_json(home / "invitations.json", {"invitations": []})
    run = RunFolder(folder / "runs" / "demo-1")
    keep_recipe(run, Recipe(name="demo", steps=1))
    Ledger(home)
    return {
        "head.json": (home / "head.json", read_head),
        "token": (home / "token", lambda: read_token(home / "token")),
        "inventory.json": (home / "inventory.json", read_inventory),
        "drained.json": (home / "drained.json", read_drained),
        "drained-for.json": (home / "drained-for.json", read_spans),
        "links.json": (home / "links.json", read_links),
        "invitations.json": (home / "invitations.json", read_invitations),
        "kept recipe": (next((home / "runs").glob("*/recipe.yaml")), lambda: kept_recipe(run)),
        "runs.sqlite": (home / "runs.sqlite", lambda: Ledger(home).rows()),
    }


def data_files(folder: Path) -> dict[str, tuple[Path, Read]]:
    from dataprep.preparing.prepare import prepare

    data = folder / "data"
    prepare([labelled(folder / "music", "a", 2_000, 1)], data, SETTINGS)
    announce(data, "0123456789ab", ["vocals-0123456789ab.arrow"])
    (data / "roots.yaml").write_text("everywhere: [/mnt/archive/songs]\nnodes:\n  attic: [/mnt/ssd1/songs]\n")
    (print_file,) = (data / "fingerprints").glob("*.npz")
    (entry,) = (data / "journal").glob("*.json")
    return {
        "manifest.json": (data / "manifest.json", lambda: read_manifest(data)),
        "manifest.second.json": (data / "manifest.second.json", lambda: read_second(data)),
        "fingerprints": (print_file, lambda: read_fingerprints(print_file)),
        "journal": (entry, lambda: journal_entries(data)),
        "roots.yaml": (data / "roots.yaml", lambda: Roots.of(data, "attic")),
    }


def config_files(folder: Path) -> dict[str, tuple[Path, Read]]:
    (folder / "home.yaml").write_text((Path(__file__).parents[2] / "cluster" / "example.yaml").read_text())
    (folder / "mine.yaml").write_text(to_yaml(Recipe(name="demo", steps=9)))
    return {
        "inventory": (folder / "home.yaml", lambda: load(Inventory, folder / "home.yaml")),
        "recipe": (folder / "mine.yaml", lambda: load(Recipe, folder / "mine.yaml")),
    }


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "run": run_files, "search": search_files, "state": state_files, "data": data_files, "config": config_files,
}  # fmt: skip


def all_of(kind: str, folder: Path, most: int | None) -> None:
    counts, wrong = {}, {}
    for name, (file, read) in KINDS[kind](folder).items():
        counts[name], found = tried(file, read, most)
        if found:
            wrong[name] = found[:5]
    print(json.dumps({kind: counts}))
    assert wrong == {}


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spread_of_bad_bytes_stops_nothing(kind, tmp_path):
    all_of(kind, tmp_path, most=60)


@pytest.mark.long("vr_core", "jobs/runs", "jobs/checkpoints", "jobs/queue", "cluster/node", "dataprep/shards")
@pytest.mark.parametrize("kind", KINDS)
def test_no_bad_byte_stops_anything(kind, tmp_path):
    all_of(kind, tmp_path, most=None)
