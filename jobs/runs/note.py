"""Words to the user from inside a run: a line in the log of its job."""

import sys


def note(line: str) -> None:
    """Print the line at once, where the job's log takes it up."""
    print(line, file=sys.stderr, flush=True)
