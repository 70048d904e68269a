"""Several processes of one program, on one port.

Each has a listener, and the system spreads new connections over them (SO_REUSEPORT). The first
process only starts the others again when they end, and passes on signals.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pushlab import limits
from pushlab.hosting import StartupError
from pushlab.hosting.lifecycle import say, stop_signals

#: In the environment of a worker: the port that all share.
PORT = "PUSHLAB_WORKER_PORT"


def is_worker() -> bool:
    """Tell whether this process was started by `supervise`."""
    return PORT in os.environ


def supervise(number: int, host: str, port: int, url: Callable[[int], str]) -> NoReturn:
    """Run this program in so many processes.

    A signal ends it. A process that ends is started again, after a pause. SIGHUP restarts one after
    another: the next one when the successor of the one before listens. Exits with status 0, or 1 if
    none could start.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartupError("--workers needs SO_REUSEPORT, which this system has not.")
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as reserved:  # it does not listen, so no connection comes here
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind(address)
        except OSError as error:
            raise StartupError(f"Cannot listen on {host} port {port}: {error.strerror}") from error
        port = reserved.getsockname()[1]
        _Workers({**os.environ, PORT: str(port)}).run(number, url(port))


class _Workers:
    """The processes, and what is to become of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._woken = threading.Event()
        self._is_stopping = False
        self._restarts: list[subprocess.Popen[str]] = []
        self._processes: list[subprocess.Popen[str]] = []

    def run(self, number: int, url: str) -> NoReturn:
        for each in stop_signals():
            if each is not getattr(signal, "SIGHUP", None):
                signal.signal(each, self._stop)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._restart)
        self._processes = [self._start() for _ in range(number)]
        listening = [self._wait_until_it_listens(each) for each in self._processes]
        if not all(listening):
            self._end()
            sys.exit(1)
        say(f"{number} processes are at {url} (Ctrl-C stops them)")
        while not self._is_stopping:
            self._woken.wait(0.2)
            self._woken.clear()
            self._replace_ended()
            if self._restarts:
                self._restart_next()
        self._end()
        sys.exit(0)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, *sys.argv]
        # Ctrl-C reaches the whole group: but the first process tells the others.
        return subprocess.Popen(  # noqa: S603 - this program itself
            command, env=self._environment, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    @staticmethod
    def _wait_until_it_listens(process: subprocess.Popen[str]) -> bool:
        """Read its line that it listens; pass on the rest."""
        stdout = process.stdout
        assert stdout is not None  # noqa: S101 - it is a pipe
        is_listening = bool(stdout.readline())
        threading.Thread(target=shutil.copyfileobj, args=(stdout, sys.stdout), daemon=True).start()
        return is_listening

    def _stop(self, *_: Any) -> None:
        self._is_stopping = True
        self._woken.set()

    def _restart(self, *_: Any) -> None:
        self._restarts = [*self._processes]
        self._woken.set()

    def _replace_ended(self) -> None:
        ended = [each for each in self._processes if each.poll() is not None]
        if not ended or self._is_stopping:
            return
        time.sleep(limits.WORKER_PAUSE)  # one that cannot start would be started again and again
        for process in ended:
            self._processes.remove(process)
            self._processes.append(new := self._start())
            threading.Thread(target=self._wait_until_it_listens, args=(new,), daemon=True).start()

    def _restart_next(self) -> None:
        old = self._restarts.pop(0)
        if old not in self._processes:
            return
        new = self._start()
        if self._wait_until_it_listens(new):
            self._processes.append(new)
            self._processes.remove(old)
            old.terminate()
            self._wait_until_ended(old)
        self._woken.set()

    def _end(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            self._wait_until_ended(process)

    @staticmethod
    def _wait_until_ended(process: subprocess.Popen[str]) -> None:
        try:
            process.wait(limits.SHUTDOWN_TIMEOUT + 2 * limits.CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
