"""The servers that can be measured: how each is started, as its own first line says."""

import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from bench.scenarios import DIRECT, FLASK
from bench.processes import ROOT, NotRunning, Process, cores, end, environment_of_servers, on_core

#: What follows the executable, by name; "{port}" is the port. Where it is not on the command line,
#: it is PORT in the environment, and our options are in PUSHLAB_OPTIONS.
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
#: Programs of ours, which take our options themselves.
PROGRAMS = ("serve.py", "serve2.py", "servers/threads.py")
#: serve.py behind nginx; both are measured together.
NGINX = "nginx"
SERVERS = (*PROGRAMS, *HOSTED, NGINX)

#: Seconds until a server answers.
STARTING = 30.0


def missing(server: str) -> str | None:
    """Return what has to be installed before this server can be started, None if nothing has."""
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
    """Return where nginx is, which may be where only root looks for programs."""
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
    """Return a port that is free, never one twice, and that no system gives to who asks for any.

    Such a one might be taken until it is used, by another server or as a client's. Those that
    systems give begin at 32768, or at 49152. It has five digits, as every byte is counted.
    """
    with _giving:
        while True:
            port = random.randrange(10_000, 32_000)
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                if port not in _given:
                    _given.add(port)
                    return port


def command(server: str, port: int, *, dispatch: str = DIRECT) -> tuple[list[str], dict[str, str]]:
    """Return how to start it on this port, and with what in the environment."""
    options = "--source http --far none" + " --no-shortcut" * (dispatch == FLASK)
    if server in PROGRAMS:
        return [sys.executable, server, "--port", str(port), *options.split()], {}
    executable, *arguments = (part.format(port=port) for part in HOSTED[server])
    where = str(Path(sys.executable).with_name(executable))
    return [where, *arguments], {"PORT": str(port), "PUSHLAB_OPTIONS": options}


@contextmanager
def started(server: str, *, dispatch: str = DIRECT) -> Iterator[Process]:
    """Run a server that only we publish to, on the core that is for it."""
    with ExitStack() as stack:
        port = free_port()
        process = stack.enter_context(
            _running(
                *command(PROGRAMS[0] if server == NGINX else server, port, dispatch=dispatch),
                port=port,
            )
        )
        if server == NGINX:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            in_front = free_port()
            (folder / "nginx.conf").write_text(nginx_configuration(listen=in_front, server=port))
            proxy = [nginx() or "nginx", "-p", str(folder), "-c", "nginx.conf"]
            process = process.beside(stack.enter_context(_running(proxy, {}, port=in_front)))
        yield process


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], *, port: int
) -> Iterator[Process]:
    """Run this until it is needed no more; yields it once it answers at that port."""
    pair = cores()
    with tempfile.TemporaryFile("w+") as said:
        with on_core(pair[0] if pair else None):
            process = subprocess.Popen(  # noqa: S603 - our own servers
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said, text=True,
                env={**environment_of_servers(), "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,  # Ctrl-C is for us, who will end it
            )  # fmt: skip
        try:
            deadline = time.monotonic() + STARTING
            while not (_answers(port) and _listens(process.pid, port)):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise NotRunning(
                        f"{Path(command[0]).name} did not start: {said.read().strip()[-300:]}"
                    )
                time.sleep(0.02)
            yield Process(process.pid, port)
        finally:
            end(process)


def _listens(pid: int, port: int) -> bool:
    """Tell whether it is this process, or one that it started, which listens at that port.

    Between free_port and its start, somebody else may have taken the port.
    """
    try:
        process = psutil.Process(pid)
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for one in (process, *process.children(recursive=True))
            for connection in one.net_connections("tcp")
        )
    except psutil.AccessDenied:
        return True  # another system, which does not tell
    except psutil.NoSuchProcess:
        return False


def _answers(port: int) -> bool:
    # Not by urllib, which would ask a proxy where the environment names one.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/data")
        return connection.getresponse().status == 200  # nginx may be there before what is behind it
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
