"""What others do to a run and its cluster, each as one function; `ATTACKS` is the table of the soak.

Somebody who may write to the share spoils what lies there, and gets no code and no file outside; another account of the
head's PC takes the dashboard's port, and is sent nothing. A PC whose clock is a year off is in the table as well.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.box.events import Figures, Scene, kill_driver, share_gone, worker_killed
from tests.box.runs import EVERY_S, PATIENCE_S
from tests.lan import await_true

_PRECIOUS = "what is the user's own\n"
_SQUAT = """
import os, socket, sys, time
os.setgid(65534), os.setuid(65534)
while True:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", 8265))
        break
    except OSError:
        time.sleep(0.001)
listener.listen(8)
print(os.getpid(), flush=True)
while True:
    connection, _ = listener.accept()
    connection.settimeout(1)
    try:
        print("heard", connection.recv(4096), flush=True)
    except OSError:
        pass
    connection.close()
"""


def share_full(scene: Scene) -> Figures:
    """The shared folder is full until a checkpoint fails for that: nothing is lost."""
    fill = scene.lan.shared / "fill"

    def full() -> None:
        with fill.open("wb") as file:
            while (free := os.statvfs(scene.lan.shared)).f_bavail:
                # The run writes meanwhile, and takes some of what was free.
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free.f_bavail * free.f_bsize)

    return share_gone(scene, full, fill.unlink)


def records_damaged(scene: Scene) -> Figures:
    """Bytes that nobody wrote stand in the run's derived files, and a worker dies: goes on past them."""
    folder = scene.run.folder
    for file in (*folder.glob("metrics/*.jsonl"), folder / "events.jsonl"):
        with file.open("ab") as log:
            log.write(b'{"kind": \xff\xfe\x00 [[[[\n')
    for file in (folder / "summary.json", folder / "checkpoints" / "last", folder / "checkpoints" / "best"):
        if file.exists():
            file.write_bytes(scene.rng.randbytes(200))
    return worker_killed(scene)


def share_writer(scene: Scene) -> Figures:
    """Code, a recipe and links are planted in the run's folder, and the driver ends: none of it is used or followed."""
    folder, home = scene.run.folder, scene.head.home
    precious, mark = home / "precious", home / "he-was-here"
    precious.write_text(_PRECIOUS)
    planted = f"open({str(Path('/root') / mark.name)!r}, 'w'); open('he-was-here', 'w')\n"
    for source in folder.glob("source/jobs/execution/*.py"):
        source.write_text(planted)
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("steps:", "steps: 1 #", 1))
    (folder / "summary.json").unlink(missing_ok=True)
    (folder / "summary.json").symlink_to(Path("..", "..", "..", "precious"))
    try:
        figures = scene.around(lambda: kill_driver(scene.run), f"start {scene.attempt + 1}.1: ")
    finally:
        (folder / "recipe.yaml").write_text(recipe)
    assert precious.read_text() == _PRECIOUS
    assert not [*home.rglob(mark.name), *scene.lan.shared.rglob(mark.name)]
    return figures


def port_squatted(scene: Scene) -> Figures:
    """Another account has the dashboard's port when it ends: it hears nothing, and Ray waits until it goes."""
    log = scene.head.home / ".local/state/vr/head.log"
    before = len(log.read_text())
    [dashboard] = [
        pid for pid in scene.head.pids() if b"/ray/dashboard/dashboard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    heard = scene.lan.folder / "heard"
    with heard.open("w") as output:
        squatter = scene.head.popen([sys.executable, "-c", _SQUAT], stdout=output)
        os.kill(dashboard, signal.SIGTERM)
        await_true(lambda: "holds port 8265" in log.read_text()[before:], "who has it", PATIENCE_S, EVERY_S)
        scene.run.await_one_more_step()  # what runs goes on meanwhile

        def leave() -> None:
            # Its own number: a process that changes its account is told of no parent's end.
            scene.head.run(["kill", heard.read_text().split()[0]])
            squatter.wait()

        figures = scene.around(leave, f"start {scene.attempt + 1}.1: ")
    token = (scene.head.home / ".local/state/vr/token").read_text().strip()
    assert token not in heard.read_text(), heard.read_text().replace(token, "TOKEN")
    return figures


def clock_jumps(scene: Scene) -> Figures:
    """A PC's clock is a year off, a worker dies meanwhile, and the clock is right again: goes on at each of them."""
    name, days = scene.someone(), scene.rng.choice((-365, 365))
    began_s = time.monotonic()
    scene.lan[name].clock(days)
    try:
        scene.run.await_one_more_step()
        pid, before = scene.run.worker_pids(scene.newest)[scene.someone()], scene.newest
        os.kill(pid, signal.SIGKILL)
        await_true(lambda: scene.newest != before, "another start", PATIENCE_S, EVERY_S)
        scene.run.await_one_more_step()
    finally:
        scene.lan[name].clock(0)
    scene.run.await_one_more_step()
    return {"days": float(days), "head": float(name == scene.head.name), "in_all_s": time.monotonic() - began_s}


ATTACKS: dict[str, Callable[[Scene], Figures]] = {
    "share full": share_full,
    "records damaged": records_damaged,
    "share writer": share_writer,
    "port squatted": port_squatted,
    "clock jumps": clock_jumps,
}
