"""`python -m cluster.probe`: one JSON request on stdin, one JSON answer on stdout.

A request says with `do` what it wants, one of `_ANSWERS`, and has that function's other keys. One that cannot be
carried out ends with its reason on stderr and exit code 1.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cluster.probe import links, machine, storage
from cluster.probe.graphics import read_graphics
from cluster.probe.listener import Listener
from cluster.probe.readings import NodeProbe, as_json


def answer(request: dict[str, Any]) -> Any:
    """Carry one request out. Raises OSError."""
    return _ANSWERS[request["do"]](request)


def _node(request: dict[str, Any]) -> Any:
    state = Path(request["state"]).expanduser() if request.get("state") else machine.state_place()
    probe = NodeProbe(
        software=machine.read_software(),
        graphics=read_graphics(),
        interfaces=machine.read_interfaces(),
        names=machine.read_names(),
        secrets=machine.read_secrets(state),
        disks={what: machine.read_disk(path) for what, path in request["disks"].items()},
        # Last, since the asking machine compares this clock with its own when the answer comes in.
        system=machine.read_system(),
    )
    return as_json(probe)


def _listen(request: dict[str, Any]) -> Any:
    measuring = request["measuring"]
    share = request.get("share")
    listener = Listener(request["address"], request["word"], request["ports"], measuring, share)
    # For as long as this node listens, the others find the lock taken.
    held = storage.hold_lock(Path(share) / storage.LOCK) if share and request["hold"] else None
    try:
        listener.serve(request["seconds"])
    finally:
        if held is not None:
            os.close(held)
    return {"port": listener.port}


def _link(request: dict[str, Any]) -> Any:
    link = links.measure(
        request["address"],
        request["word"],
        request["ports"],
        request["measuring"],
        seconds=request["seconds"],
        mtu=request["mtu"],
        changing=request["changing"],
        stale_timeout_s=request["stale_timeout_s"],
    )
    return as_json(link)


def _await(request: dict[str, Any]) -> Any:
    """Wait until the listener of this very node answers."""
    end = time.monotonic() + request["seconds"]
    while True:
        port = links.find_listener(request["address"], request["word"], request["measuring"])
        if port is not None or time.monotonic() > end:
            return {"ready": port is not None}
        time.sleep(0.05)


def _stop(request: dict[str, Any]) -> Any:
    links.stop(request["address"], request["word"], request["measuring"])
    return {}


def _make_share(request: dict[str, Any]) -> Any:
    folder = Path(request["share"])
    storage.make_folder(folder, request["word"])
    return {"write": storage.write_rate(folder / storage.LARGE, request["most_bytes"], request["seconds"])}


def _share(request: dict[str, Any]) -> Any:
    folder = Path(request["share"])
    share = storage.check_share(folder, request["word"], request["node"], request["held"])
    rates = storage.shared_rates(folder / storage.LARGE, request["seconds"]) if share.same_file else None
    return {"share": as_json(share), "rates": None if rates is None else as_json(rates)}


def _clear_share(request: dict[str, Any]) -> Any:
    folder = Path(request["share"])
    # Nothing but what `make_folder` made is ever removed.
    if (folder / storage.MARK).read_bytes() == request["word"].encode():
        shutil.rmtree(folder)
    return {}


def _rates(request: dict[str, Any]) -> Any:
    return as_json(storage.disk_rates(Path(request["folder"]), request["most_bytes"], request["seconds"]))


_ANSWERS = {
    "node": _node,
    "listen": _listen,
    "link": _link,
    "await": _await,
    "stop": _stop,
    "make share": _make_share,
    "share": _share,
    "clear share": _clear_share,
    "rates": _rates,
}


def main() -> int:
    """Answer the request on stdin."""
    try:
        print(json.dumps(answer(json.load(sys.stdin))))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
