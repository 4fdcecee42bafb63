"""Something that takes connections, as the raylet of a PC does."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, Callable[[], None]]]:
    """A port of 127.0.0.1 that takes connections, until the block ends or the function beside it is called."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        end = threading.Event()

        def take() -> None:
            while not end.is_set():
                with contextlib.suppress(OSError):
                    listening.accept()[0].close()

        def close() -> None:
            if not end.is_set():
                end.set()
                listening.shutdown(socket.SHUT_RDWR)
                taking.join(10)
                listening.close()

        taking = threading.Thread(target=take, daemon=True)
        taking.start()
        try:
            yield listening.getsockname()[1], close
        finally:
            close()
