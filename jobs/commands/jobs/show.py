"""`vr jobs show`: everything about one run."""

import json
import sys
import time
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
    for key, value in found.items():
        if key == "events":
            for event in value:
                at = time.strftime("%m-%d %H:%M:%S", time.localtime(event["time_s"]))
                print(f"event: {at} step {event['step']}: {event['said']}")
        elif key == "sync":
            print(f"sync: {_shown_choice(value)}")
        elif key == "not_worth":
            print(f"advice: {_shown_advice(value)}")
        elif key != "recipe":
            print(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")
    print("recipe:\n" + "".join(f"  {text}\n" for text in to_yaml(run.recipe()).splitlines()), end="")
    return None


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
