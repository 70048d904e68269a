"""Forks programs: their start takes 0.35 s of CPU, imports nearly all, and tests start hundreds.

A fork server is a Python that has imported what the programs import, and has run nothing of it.
What it forks runs the program's file as `python FILE` does, in a process of its own. `FORKED` says
which programs; all others are started by themselves, and so is each of these by tests of its start.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

#: What is imported before a fork, by whether gevent has patched Python.
IMPORTED = {
    "gevent": ("lab.app", "lab.instruments", "pushlab.hosting.gevent_server", "pushlab.sockets"),
    "threads": ("lab.app", "lab.instruments", "pushlab.hosting.threaded_server", "flask.cli"),
}
#: Programs that begin by patching, or never do.
FORKED = {
    "serve.py": "gevent",
    "serve2.py": "gevent",
    "tests/broken_source.py": "gevent",
    "tests/conversing.py": "gevent",
    "tests/owners.py": "gevent",
    "tests/pushing.py": "gevent",
    "servers/threads.py": "threads",
    "tests/threaded.py": "threads",
    "tests/flask_run.py": "threads",
    "flask": "threads",
}
#: Packages of ours, which are imported anew where limits are changed or the path is another.
OURS = ("lab", "pushlab", "tests", "serve", "servers")
#: Variables that Python or a package reads as it starts or is imported.
AT_START = ("PYTHON", "GEVENT", "LANG", "LC_", "TZ")

#: Of every program; see tests/at_start/sitecustomize.py.
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join((str(ROOT / "tests" / "at_start"), str(ROOT))),
    "PYTHONUNBUFFERED": "1",
}

# In the tests.


def ancestor(program: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str | None:
    """Return which fork server can start it; None if none can."""
    names = environment.keys() - {"PYTHONPATH"}
    if not hasattr(os, "pidfd_open") or any(name.startswith(AT_START) for name in names):
        return None
    file = folder / program[program[0] == sys.executable]
    base = BIN if file.parent == BIN else ROOT
    return FORKED.get(str(file.relative_to(base))) if file.is_relative_to(base) else None


class ForkServer:
    """A fork server, started when it is first needed."""

    def __init__(self, kind: str) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            command = ["env", "--default-signal", sys.executable, __file__, kind, str(number)]
            self._process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL,
                pass_fds=[number],
            )  # fmt: skip

    def fork(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        """Return the id of a new process; these are its 0, 1, 2, and where its status goes."""
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            return int(self._channel.recv(32))

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._channel.close()
        self._process.wait()


_fork_servers: dict[str, ForkServer] = {}


def close_fork_servers() -> None:
    """End them all."""
    while _fork_servers:
        _fork_servers.popitem()[1].close()


class Forked:
    """A process that was forked: what tests use of `subprocess.Popen`."""

    def __init__(
        self, kind: str, program: Sequence[str], folder: Path, environment: Mapping[str, str],
        stdin: int | None,
    ) -> None:  # fmt: skip
        self.args = program
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self._status, status = os.pipe()
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        if stdin == subprocess.PIPE:
            theirs_in, writing = os.pipe()
            self.stdin = os.fdopen(writing, "w")
        elif stdin == subprocess.DEVNULL:
            theirs_in = os.open(os.devnull, os.O_RDONLY)
        else:
            theirs_in = os.dup(0 if stdin is None else stdin)
        self.stdout: IO[str] = os.fdopen(out)
        self.stderr: IO[str] = os.fdopen(err)
        theirs = [theirs_in, theirs_out, theirs_err, status]
        request = {
            "program": list(program), "folder": str(folder), "environment": dict(environment)
        }  # fmt: skip
        try:
            if kind not in _fork_servers:
                _fork_servers[kind] = ForkServer(kind)
            self.pid = _fork_servers[kind].fork(request, theirs)
        finally:
            for each in theirs:
                os.close(each)

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; subprocess.TimeoutExpired if that takes longer."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status)
            if not poll.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(os.read(self._status, 32))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# In the fork server.


def main(kind: str, number: int) -> None:
    """Import; fork at each request; in the child, run the program."""
    # A terminal's Ctrl-C is for the tests, which end this, and need it until they have ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before gevent patches: its own would need a loop, which a child would share.
    channel, poll, fork, waitpid = (
        socket.socket(fileno=number), select.poll(), os.fork, os.waitpid
    )  # fmt: skip
    if kind == "gevent":
        from gevent import monkey

        monkey.patch_all()
    for module in IMPORTED[kind]:
        import_module(module)
    with channel:
        request = until_forked(channel, poll, fork, waitpid)
    if request:
        run(**request)


def until_forked(
    channel: socket.socket,
    poll: select.poll,
    fork: Callable[[], int],
    waitpid: Callable[[int, int], tuple[int, int]],
) -> dict[str, Any] | None:
    """Serve requests; return one in the process that is forked for it, None at the end."""
    children: dict[int, tuple[int, int]] = {}  # by its pidfd: its id, and where its status goes
    poll.register(channel, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in children:
                poll.unregister(ready)
                pid, status = children.pop(ready)
                code = os.waitstatus_to_exitcode(waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):  # the tests have ended
                    os.write(status, str(code).encode())
                for each in (ready, status):
                    os.close(each)
                continue
            data, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
            if not data:
                return None
            *streams, status = descriptors
            pid = fork()
            if not pid:
                channel.close()
                for target, each in enumerate(streams):
                    os.dup2(each, target)
                others = (each for child in children.items() for each in (child[0], child[1][1]))
                for each in (*descriptors, *others):
                    os.close(each)
                request: dict[str, Any] = json.loads(data)
                return request
            for each in streams:
                os.close(each)
            watched = os.pidfd_open(pid)
            poll.register(watched, select.POLLIN)
            children[watched] = pid, status
            channel.send(str(pid).encode())


def run(program: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
    """Run a program's file as `python FILE` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = sys.path[1:]
    with suppress(ValueError):
        for each in os.environ["PYTHONPATH"].split(os.pathsep):
            before.remove(each)
    is_same = os.environ["PYTHONPATH"] == environment["PYTHONPATH"]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    arguments = program[program[0] == sys.executable :]
    file = arguments[0]
    path = [each for each in environment["PYTHONPATH"].split(os.pathsep) if each]
    sys.path[:] = [str(Path(file).resolve().parent), *path, *before]
    sys.argv = list(arguments)
    sys.orig_argv = [sys.executable, *arguments]
    if "LIMITS" in environment or not is_same:
        for name in list(sys.modules):
            if name.partition(".")[0] in OURS:
                del sys.modules[name]
        sys.modules["sitecustomize"].change(environment)
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__dict__.update(__file__=file, __builtins__=__builtins__)
    exec(compile(Path(file).read_bytes(), file, "exec"), module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
