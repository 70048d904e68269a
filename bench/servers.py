"""The servers that can be measured, and their command lines."""

import os
import random
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.scenarios import DIRECT, FLASK
from bench.processes import ROOT, Process, running

#: Executable and arguments, by name; "{port}" is the port. Where it is not among the arguments, it
#: is PORT in the environment. Our options are in PUSHLAB_OPTIONS.
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
#: Programs of ours, with our options as arguments.
PROGRAMS = ("serve.py", "serve2.py", "servers/threads.py")
#: nginx in front of serve.py; both are measured together.
NGINX = "nginx"
SERVERS = (*PROGRAMS, *HOSTED, NGINX)


def missing(server: str) -> str | None:
    """Return what this server lacks, None if nothing."""
    if server in PROGRAMS:
        return None
    if server == NGINX:
        return None if nginx() else "nginx (apt install nginx-light)"
    executable = Path(sys.executable).with_name(HOSTED[server][0])
    installable = f"{executable.name} (pip install -r servers/requirements.txt)"
    return None if executable.exists() else installable


def nginx() -> str | None:
    """Return nginx's path, which may be only root's."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def nginx_configuration(*, listen: int, server: int) -> str:
    """Return servers/nginx.conf, on other ports."""
    text = (ROOT / "servers" / "nginx.conf").read_text()
    return text.replace("127.0.0.1:5000", f"127.0.0.1:{server}").replace(
        "127.0.0.1:8080", f"127.0.0.1:{listen}"
    )


_given: set[int] = set()
_giving = threading.Lock()


def free_port() -> int:
    """Return a free port of five digits, always another.

    It is below the ephemeral ports, which begin at 32768 or 49152: one of those might be taken
    before it is used. Five digits, because every byte is counted.
    """
    with _giving:
        while True:
            port = random.randrange(10_000, 32_000)
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                if port not in _given:
                    _given.add(port)
                    return port


def command(server: str, port: int, *, dispatch: str = DIRECT) -> tuple[list[str], dict[str, str]]:
    """Return the command line and additions to the environment."""
    options = "--source http --far none" + " --no-direct" * (dispatch == FLASK)
    if server in PROGRAMS:
        return [sys.executable, server, "--port", str(port), *options.split()], {}
    executable, *arguments = (part.format(port=port) for part in HOSTED[server])
    where = str(Path(sys.executable).with_name(executable))
    return [where, *arguments], {"PORT": str(port), "PUSHLAB_OPTIONS": options}


@contextmanager
def started(server: str, *, dispatch: str = DIRECT) -> Iterator[Process]:
    """Run a server that only we publish to."""
    with ExitStack() as stack:
        port = free_port()
        run, environment = command(
            PROGRAMS[0] if server == NGINX else server, port, dispatch=dispatch
        )
        process = stack.enter_context(running(run, environment=environment, port=port))
        if server == NGINX:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            in_front = free_port()
            (folder / "nginx.conf").write_text(nginx_configuration(listen=in_front, server=port))
            proxy = [nginx() or "nginx", "-p", str(folder), "-c", "nginx.conf"]
            process = process.beside(stack.enter_context(running(proxy, port=in_front)))
        yield process
