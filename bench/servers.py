"""The servers that can be measured, and their command lines."""

import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path

from bench.processes import ROOT, Process, running
from bench.scenarios import DIRECT, FLASK

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
    return (
        None
        if executable.exists()
        else f"{executable.name} (pip install -r servers/requirements.txt)"
    )


def nginx() -> str | None:
    """Return nginx's path, which may be only root's."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def nginx_configuration(*, listen: int, server: int) -> str:
    """Return servers/nginx.conf, on other ports."""
    text = (ROOT / "servers" / "nginx.conf").read_text()
    return text.replace("127.0.0.1:5000", f"127.0.0.1:{server}").replace(
        "127.0.0.1:8080", f"127.0.0.1:{listen}"
    )


#: Below the ephemeral ports, which begin at 32768 or 49152: one of those might be taken before it
#: is used. Five digits, because every byte is counted. Each once, as servers start together.
_ports = cycle(random.sample(range(10_000, 32_000), 22_000))


def free_port() -> int:
    """Return a free port of five digits, always another."""
    while True:
        port = next(_ports)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


#: Changes come by POST /data, and from nowhere else.
HTTP_SOURCE = "--source http"


def command(
    server: str, port: int, *, dispatch: str = DIRECT, options: str = HTTP_SOURCE
) -> tuple[list[str], dict[str, str]]:
    """Return the command line and additions to the environment."""
    options += " --far none" + " --no-direct" * (dispatch == FLASK)
    if server in PROGRAMS:
        return [sys.executable, server, "--port", str(port), *options.split()], {}
    executable, *arguments = (part.format(port=port) for part in HOSTED[server])
    where = str(Path(sys.executable).with_name(executable))
    return [where, *arguments], {"PORT": str(port), "PUSHLAB_OPTIONS": options}


@contextmanager
def started(
    server: str, *, dispatch: str = DIRECT, options: str = HTTP_SOURCE, **streams: int
) -> Iterator[Process]:
    """Run a server that only we publish to.

    `streams` are as in Popen.
    """
    with ExitStack() as stack:
        port = free_port()
        run, environment = command(
            "serve.py" if server == NGINX else server, port, dispatch=dispatch, options=options
        )
        process = stack.enter_context(running(run, environment=environment, port=port, **streams))
        if server == NGINX:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            in_front = free_port()
            (folder / "nginx.conf").write_text(nginx_configuration(listen=in_front, server=port))
            proxy = [nginx() or "nginx", "-p", str(folder), "-c", "nginx.conf"]
            other = stack.enter_context(running(proxy, port=in_front))
            process = Process([*process.pids, *other.pids], in_front, port)
        yield process
