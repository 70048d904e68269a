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

#: In the environment of a worker: the port that all share, and the process that started it.
PORT, SUPERVISOR = "PUSHLAB_WORKER_PORT", "PUSHLAB_SUPERVISOR"


def is_worker() -> bool:
    """Tell whether this process was started by `supervise`."""
    return PORT in os.environ


def end_with_supervisor() -> None:
    """Stop this worker when the supervisor is gone.

    Nobody else would: with its port shared, it would go on beside those that are started next.
    """
    supervisor = int(os.environ[SUPERVISOR])

    def watch() -> None:
        while os.getppid() == supervisor:
            time.sleep(limits.LOOK_INTERVAL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


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
        # As the processes' listeners have it: connections may be in TIME_WAIT there.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind(address)
        except OSError as error:
            raise StartupError(f"Cannot listen on {host} port {port}: {error.strerror}") from error
        port = reserved.getsockname()[1]
        environment = {**os.environ, PORT: str(port), SUPERVISOR: str(os.getpid())}
        _Workers(environment).run(number, url(port))


class _Workers:
    """The processes, and what is to become of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._woken = threading.Event()
        self._is_stopping = False
        self._is_to_restart = False
        self._restarts: list[subprocess.Popen[str]] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._starting: list[subprocess.Popen[str]] = []

    def run(self, number: int, url: str) -> NoReturn:
        for each in stop_signals():
            if each is not getattr(signal, "SIGHUP", None):
                signal.signal(each, self._stop)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._restart)
        self._starting = [self._start() for _ in range(number)]
        listening = [self._listens(each) for each in self._starting]
        if not self._is_stopping:
            if not all(listening):
                self._end()
                sys.exit(1)
            self._processes, self._starting = self._starting, []
            say(f"{number} processes are at {url} (Ctrl-C stops them)")
        while not self._is_stopping:
            self._woken.wait(0.2)
            self._woken.clear()
            self._replace_ended()
            if self._is_to_restart:  # also one that was started when this was asked for
                self._is_to_restart, self._restarts = False, [*self._processes]
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

    def _listens(self, process: subprocess.Popen[str]) -> bool:
        """Wait until a process listens.

        Returns False if it ends, or all are to. Others that end meanwhile are replaced: one may
        never listen, nor end.
        """
        result = self._read(process)
        while not result and not self._is_stopping:
            self._woken.wait(0.2)
            self._woken.clear()
            self._replace_ended()
        return any(result)

    def _read(self, process: subprocess.Popen[str]) -> list[bool]:
        """Read and print what a process prints.

        Its first line says that it listens. Returns a list that gets True then, or False if the
        process ends.
        """
        stdout, result = process.stdout, list[bool]()
        assert stdout is not None  # noqa: S101 - it is a pipe

        def read() -> None:
            result.append(bool(stdout.readline()))
            self._woken.set()
            shutil.copyfileobj(stdout, sys.stdout)

        threading.Thread(target=read, daemon=True).start()
        return result

    # Signals set nothing but these: `wait` may have been interrupted with the event's lock held.

    def _stop(self, *_: Any) -> None:
        self._is_stopping = True

    def _restart(self, *_: Any) -> None:
        self._is_to_restart = True

    def _replace_ended(self) -> None:
        ended = [each for each in self._processes if each.poll() is not None]
        if not ended or self._is_stopping:
            return
        time.sleep(limits.WORKER_PAUSE)  # one that cannot start would be started again and again
        for process in ended:
            self._processes.remove(process)
            self._processes.append(new := self._start())
            self._read(new)

    def _restart_next(self) -> None:
        old = self._restarts.pop(0)
        if old not in self._processes:
            return
        self._starting.append(new := self._start())
        is_listening = self._listens(new)
        if self._is_stopping:
            return
        self._starting.remove(new)
        if is_listening:
            superfluous = new  # if the old one has ended by itself, and has a successor
            if old in self._processes:
                self._processes[self._processes.index(old)], superfluous = new, old
            superfluous.terminate()
            self._wait_until_ended(superfluous)
        self._woken.set()

    def _end(self) -> None:
        processes = {*self._processes, *self._starting}
        for process in processes:
            process.terminate()
        for process in processes:
            self._wait_until_ended(process)

    @staticmethod
    def _wait_until_ended(process: subprocess.Popen[str]) -> None:
        try:
            process.wait(limits.SHUTDOWN_TIMEOUT + 2 * limits.CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
