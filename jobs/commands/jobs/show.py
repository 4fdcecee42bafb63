"""`vr jobs show`: everything about one run."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from jobs.commands.jobs.carried import head_or_note
from jobs.commands.jobs.options import RUNS, Out, RunName
from jobs.commands.terminal import Json


def show(name: RunName, out: Out = RUNS, as_json: Json = False) -> None:
    """Show a run's state, machines, checkpoints and recipe.

    Example: vr jobs show songs-pretrain-1a2b3c4d-1
    """
    from jobs.reports.overview import details, find_run

    run = find_run(name, out)
    head, note = head_or_note()
    found = details(run, head)
    if as_json:
        return print(json.dumps(found))
    from vr_core.config import to_yaml

    if note:
        print(note, file=sys.stderr)
    for key, value in _shown(found):
        print(f"{key}: {value}")
    print("recipe:\n" + "".join(f"  {text}\n" for text in to_yaml(run.recipe()).splitlines()), end="")
    return None


def _shown(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is said of a run, in the order in which one asks, with its heading."""
    from jobs.reports.overview import shown_moment
    from jobs.reports.trace import shown_machine

    yield "run", found["run"]
    why = f" ({found['why']})" if found["why"] else ""
    yield "state", f"{found['state']}{why} at step {found['step']} of {found['steps']}, {found['updated']}"
    if found["loss"] is not None:
        yield "loss", f"{found['loss']:.4g}"
    if found["submission"]:
        yield "job", f"{found['submission']}, {found['job'] or 'not known to the head'}"
    yield "folder", found["folder"]
    pointed = "".join(f", {name} {found[name]}" for name in ("last", "best") if name in found)
    yield "checkpoints", f"{len(found['checkpoints'])}{pointed}"
    if "sync" in found:
        yield "sync", _shown_choice(found["sync"])
    if "not_worth" in found:
        yield "advice", _shown_advice(found["not_worth"])
    for line in found["damage"]:
        yield "damage", f"{line}; the run goes on without it"
    origin = found["origin"]
    for start, machines in origin.get("machines", {}).items():
        yield f"machines of start {start}", ", ".join(map(shown_machine, machines))
    versions = origin.get("versions", {})
    changed = " with changes" if origin.get("dirty") else ""
    known = [f"{name} {versions[name]}" for name in ("vr", "torch", "ray") if name in versions]
    yield "code", ", ".join([*known, f"commit {(origin.get('commit') or 'unknown')[:12]}{changed}"])
    for event in found["events"]:
        at = shown_moment(event["time_s"], "%m-%d %H:%M:%S")
        yield "event", f"{at} step {event['step']}: {event['said']}"


def _shown_choice(sync: dict[str, Any]) -> str:
    """What the run chose, what it had predicted, and what came of it."""
    from jobs.steps.shares import choice_said

    took = "" if sync["step_s"] is None else f"; so far {sync['step_s']:.3f} s"
    return choice_said(sync["chosen"], sync["predicted_s"]) + took


def _shown_advice(reported: dict[str, Any]) -> str:
    """What would be quicker."""
    return (
        f"without {', '.join(reported['machines'])} a step would take {reported['without_s']:.3f} s, with all "
        f"{reported['with_s']:.3f} s (predicted); a recipe with nodes: {{min: 1}} leaves such machines out"
    )
