"""Every way to host the app, started as its first line says, for whoever measures or tests them."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from pushlab.measure.processes import PATIENCE, ROOT, NotRunning, Process

_BIN = Path(sys.executable).parent

#: What follows the executable, by the name of the way; "{port}" is the port.
HOSTED = {
    "gunicorn": ("gunicorn", "-c", "servers/gunicorn.conf.py", "serve:app"),
    "flask_sockets.worker": (
        "gunicorn", "-k", "flask_sockets.worker", "-b", "127.0.0.1:{port}",
        "--no-control-socket", "serve2:app",
    ),
    "uwsgi gevent": ("uwsgi", "servers/uwsgi.ini"),
    "uwsgi threads": ("uwsgi", "servers/uwsgi-threads.ini"),
    "flask run": ("flask", "--app", "servers/threads", "run", "-p", "{port}"),
}  # fmt: skip

#: Our own servers first.
WAYS = ("serve.py", "servers/threads.py", *HOSTED)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def hosting(way: str) -> Iterator[Process]:
    """Run the app in one of WAYS, with data that is published by POST; it answers already."""
    port = free_port()
    if way in HOSTED:
        executable, *arguments = (part.format(port=port) for part in HOSTED[way])
        command = [str(_BIN / executable), *arguments]
    else:
        command = [sys.executable, way, "--port", str(port), "--far", "none", "--source", "http"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if way in HOSTED:
        environment |= {"PORT": str(port), "PUSHLAB_OPTIONS": "--source http"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            command, cwd=ROOT, env=environment, stdout=said, stderr=said
        )
        try:
            deadline = time.monotonic() + 3 * PATIENCE
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise NotRunning(f"{way}: {said.read().strip().rpartition(chr(10))[2]}")
                time.sleep(0.1)
            yield Process(process.pid, port)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/data", timeout=5) as answer:
        return bool(answer.status == 200)
    return False
