"""Calls that hinder no other: a share that hangs holds whoever reads from it, for minutes or for ever."""

import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from jobs.errors import Late

T = TypeVar("T")


class Apart(Generic[T]):
    """Makes each call in a thread of its own, under a name, and waits for it so long and no longer.

    A name whose call has not returned yet is not called again; its late answer is dropped. Threads of calls that hang
    do not keep the process from ending.
    """

    def __init__(self) -> None:
        """Nothing is called yet."""
        self._hanging: dict[str, concurrent.futures.Future[Any]] = {}

    def call(self, calls: Mapping[str, Callable[[], T]], within_s: float) -> dict[str, T | Exception]:
        """Make the calls at once; name → its answer, what it raised, or `Late`."""
        self._hanging = {name: call for name, call in self._hanging.items() if not call.done()}
        going = {name: _started(name, call) for name, call in calls.items() if name not in self._hanging}
        concurrent.futures.wait(going.values(), timeout=within_s)
        self._hanging |= {name: call for name, call in going.items() if not call.done()}
        late = Late(f"no answer in {within_s:g} s; is its folder's share away?")
        return {name: late if name in self._hanging else _outcome(going[name]) for name in calls}


def _started(name: str, call: Callable[[], T]) -> "concurrent.futures.Future[T]":
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def carry() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    # A pool's threads would be waited for at the end of the process.
    threading.Thread(target=carry, name=name, daemon=True).start()
    return future


def _outcome(call: concurrent.futures.Future[Any]) -> Any:
    error = call.exception()
    if error is None:
        return call.result()
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
