"""Real servers for the tests: started as a user starts them, stopped as a user stops them."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
import trustme

from tests.clients import Http

pytest_plugins = ["tests.browsing", "tests.dividing"]

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("serve.py", "serve2.py")

#: For TLS, where it is not what is tested.
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE

#: Seconds that anything may take here before it counts as hanging.
PATIENCE = 15.0


def eventually(condition: Callable[[], Any], *, timeout: float = PATIENCE) -> Any:
    """Return what the condition returns once it is true; fail if that does not happen."""
    deadline, pause = time.monotonic() + timeout, 0.01
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.1)  # to ask a browser costs as much as what is waited for
    return result


#: Whatever happens to a test, its programs do not outlive it for long.
_started: list[subprocess.Popen[str]] = []


def pytest_sessionfinish() -> None:
    """End what a failing test has left behind, and what that has started."""
    for process in _started:
        if process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()


class Program:
    """A server program in a process of its own, its output read as it comes."""

    def __init__(
        self,
        *arguments: str,
        stdin: int | None = subprocess.DEVNULL,
        before: str = ":",
        command: Sequence[str] = (sys.executable,),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.process = subprocess.Popen(
            ["sh", "-c", f'{before}; exec "$@"', "sh", *command, *arguments],
            cwd=ROOT,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **environment},
        )
        _started.append(self.process)
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=lambda s=stream, t=taken: t.extend(s), daemon=True)
            for stream, taken in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def log(self) -> str:
        """Everything on stderr so far."""
        return "".join(self.err)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return psutil.Process(self.process.pid).memory_info().rss  # type: ignore[no-any-return]

    def wait(self, timeout: float = PATIENCE) -> int:
        """Return the exit status, with all output read."""
        status = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status

    def stop(self) -> int:
        """Ask it to end, as `kill` and a service manager do."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


class Server(Program):
    """A running Pushlab server, ready for requests."""

    def __init__(self, program: str, *options: str, port: int = 0, **more: Any) -> None:
        if "--far" not in options:  # a far port is a process more, and another port
            options = ("--far", "none", *options)
        super().__init__(program, "--port", str(port), *options, **more)
        self.url = self._url()
        self.port = int(self.url.rpartition(":")[2])
        self.http = Http("127.0.0.1", self.port, tls=self.tls)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How to trust the server, if it speaks TLS; tests that care for certificates say so."""
        return UNVERIFIED if self.url.startswith("https:") else None

    def _url(self) -> str:
        ready = eventually(lambda: self.out or self.process.poll() is not None)
        assert ready is not True, self.log
        found = re.search(r"https?://\S+:\d+", self.out[0])
        assert found, self.out
        return found[0]

    def open_socket(self) -> socket.socket:
        """Return a new connection to it."""
        return self.wrap(socket.create_connection(("127.0.0.1", self.port), PATIENCE))

    def ask(self, path: str, *fields: str) -> socket.socket:
        """Send a GET request on a connection of its own, and leave it at that."""
        client = self.open_socket()
        head = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *fields, "", ""]
        client.sendall("\r\n".join(head).encode())
        return client

    def wrap(self, plain: socket.socket) -> socket.socket:
        """Speak TLS on this connection if the server does."""
        return self.tls.wrap_socket(plain, server_hostname="127.0.0.1") if self.tls else plain

    @property
    def ws(self) -> str:
        """The URL for WebSockets, without a path."""
        return self.url.replace("http", "ws", 1)

    def publish(self, value: dict[str, Any]) -> str:
        """POST a value; return its cursor."""
        answer = self.http.post("/data", value)
        assert answer.status == 201, answer
        return str(answer.json["cursor"])


Start = Callable[..., Server]


@contextmanager
def ending_well(servers: Sequence[Server]) -> Iterator[None]:
    """Stop these in the end; all must stop by themselves, cleanly, and without a traceback."""
    try:
        yield
    finally:
        alive = [server for server in servers if server.process.poll() is None]
        statuses = [server.stop() for server in alive]
        for server in servers:
            server.wait()
    assert statuses == [0] * len(alive), [server.log for server in alive]
    for server in servers:
        assert "Traceback" not in server.log, server.log


@contextmanager
def starting() -> Iterator[Start]:
    """Start servers; each must in the end stop by itself, cleanly, and without a traceback."""
    servers: list[Server] = []

    def start(program: str = "serve.py", *options: str, **more: Any) -> Server:
        servers.append(Server(program, *options, **more))
        return servers[-1]

    with ending_well(servers):
        yield start


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers for one test."""
    with starting() as start:
        yield start


@pytest.fixture(scope="session", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    """Each of the programs that serve."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(program: str) -> Iterator[Server]:
    """A server of each program, for all tests, whose data they change with `publish`."""
    with starting() as start:
        yield start(program, "--source", "http")


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Whoever trusts it trusts the `certificate`."""
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key, in files."""
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(tmp_path / "cert.pem", append=True)
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """After `-k contract`, tell in a line per server and transport how it went."""
    if "contract" not in terminalreporter.config.option.keyword:
        return
    results: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, pair in report.user_properties:
                if name == "contract" and (report.when == "call" or outcome == "error"):
                    results.setdefault(pair, Counter())[outcome] += 1
    terminalreporter.section("contract: server and transport")
    for pair, counts in sorted(results.items()):
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        terminalreporter.line(f"{pair:<40} {told}")
