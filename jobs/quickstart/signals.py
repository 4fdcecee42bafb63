"""What ends a quickstart, and what must not while it clears away."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any


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
