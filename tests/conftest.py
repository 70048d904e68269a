"""Real servers, started and stopped as a user does it."""

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
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import psutil
import pytest
import trustme

from tests.clients import HANG_TIMEOUT, CountingTLS, Http, LabPage, RawSocket, Wire
from tests.forking import ENVIRONMENT, Forked, ancestor, close_fork_servers

pytest_plugins = ["tests.browsing"]

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("serve.py", "serve2.py")

#: Trusts every certificate, for tests of something else.
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE


def eventually(condition: Callable[[], Any], *, timeout: float = HANG_TIMEOUT) -> Any:
    """Wait until the condition is true; return its result."""
    deadline, pause = time.monotonic() + timeout, 0.01
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.1)  # asking a browser costs as much as what is waited for
    return result


def until_same(both: Callable[[], tuple[Any, Any]]) -> None:
    """Wait until both are equal; fail with how they differ."""
    last: list[Any] = []

    def same() -> bool:
        last[:] = both()
        return bool(last[0] == last[1])

    with suppress(AssertionError):
        eventually(same)
    assert last[0] == last[1]


def takes(seconds: float, attempt: Callable[[], float], *, late: float = 0.05) -> None:
    """Check that each attempt takes this long, and hardly longer where the machine is free.

    An attempt returns the seconds that it took. A busy machine gets as many as it needs.
    """

    def in_time() -> bool:
        took = attempt()
        assert took >= seconds
        return took < seconds + late

    eventually(in_time)


@contextmanager
def row(name: object) -> Iterator[None]:
    """Name the row of a table that fails, where one test has many."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{name}: {error!r}") from error


#: Every program with the threads that read it, so that none outlives a test that fails.
_started: list[tuple[subprocess.Popen[str] | Forked, list[threading.Thread]]] = []


def pytest_sessionfinish() -> None:
    """Kill the programs that failing tests have left behind."""
    for process, readers in _started:
        if process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
        for reader in readers:  # which closes its pipe
            reader.join(1)
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
    close_fork_servers()


def _read(stream: IO[str], taken: list[str]) -> None:
    """Read to the end; close it, also where nobody waits for the program."""
    with stream:
        taken.extend(stream)


class Program:
    """A program in its own process; its output is read.

    It is started in `folder` by a shell, which first runs `before`, or forked: tests/forking.py.
    """

    def __init__(
        self,
        *arguments: str,
        stdin: int | None = subprocess.DEVNULL,
        folder: Path = ROOT,
        before: str = ":",
        command: Sequence[str] = (sys.executable,),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        # Signals are ignored by what `nohup` or a shell in the background has started: these tests.
        start = f'{before}; exec env --default-signal "$@"'
        program = [*command, *arguments]
        kind = ancestor(program, folder, environment) if before == ":" else None
        environment = {**os.environ, **ENVIRONMENT, **environment}
        self.process: subprocess.Popen[str] | Forked = (
            Forked(kind, program, folder, environment, stdin)
            if kind
            else subprocess.Popen(
                ["sh", "-c", start, "sh", *program],
                cwd=folder,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
        self.out: list[str] = []
        self.err: list[str] = []
        pipes = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=_read, args=each, daemon=True) for each in pipes]
        _started.append((self.process, self._readers))
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

    def until_idle(self) -> None:
        """Wait until it has done all that it was asked to: no thread of it runs."""
        pids = [self.process.pid, *(each.pid for each in self.children)]

        def is_idle() -> bool:
            tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/stat")]
            with suppress(OSError):  # one of them has ended meanwhile
                return {task.read_text().rpartition(") ")[2][0] for task in tasks} == {"S"}
            return False

        # More than once: a thread may pass its turn on between two looks.
        eventually(lambda: all(is_idle() for _ in range(5)))

    @property
    def children(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def wait(self, timeout: float = HANG_TIMEOUT) -> int:
        """Return the exit status, with all output read."""
        status = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return status

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


class Server(Program):
    """A running Pushlab server, ready for requests."""

    def __init__(self, program: str, *options: str, port: int = 0, **more: Any) -> None:
        # A far port is a process more, and another port; examples have none.
        if "--far" not in options and not program.startswith("examples/"):
            options = ("--far", "none", *options)
        super().__init__(program, "--port", str(port), *options, **more)
        ready = eventually(lambda: self.out or self.process.poll() is not None)
        assert ready is not True, self.log
        found = re.search(r"https?://\S+:\d+", self.out[0])
        assert found, self.out
        self.is_at(found[0])

    def is_at(self, url: str) -> None:
        """Set the URL, and what follows from it."""
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.http = Http("127.0.0.1", self.port, tls=self.tls)

    def responds(self, path: str = "/data") -> bool:
        """Return whether requests are responded to by now."""
        assert self.process.poll() is None, self.log
        try:
            self.http.get(path)
        except OSError:
            return False
        return True

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The context for connections, if the server speaks TLS."""
        return UNVERIFIED if self.url.startswith("https:") else None

    def open_socket(self) -> socket.socket:
        """Return a new connection to it."""
        return self.wrap(socket.create_connection(("127.0.0.1", self.port), HANG_TIMEOUT))

    def websocket(self, path: str = "/update", **options: Any) -> RawSocket:
        """Open a WebSocket."""
        return RawSocket(self.port, path, wrap=self.wrap, **options)

    def send_get(self, path: str, *fields: str) -> socket.socket:
        """Send a GET request, without waiting for the response."""
        client = self.open_socket()
        head = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *fields, "", ""]
        client.sendall("\r\n".join(head).encode())
        return client

    def wrap(self, plain: socket.socket) -> socket.socket:
        """Begin TLS on this connection if the server speaks it."""
        return self.tls.wrap_socket(plain, server_hostname="127.0.0.1") if self.tls else plain

    @property
    def ws(self) -> str:
        """The URL for WebSockets, without a path."""
        return self.url.replace("http", "ws", 1)

    def publish(self, value: dict[str, Any]) -> str:
        """POST a value; return its cursor."""
        response = self.http.post("/data", value)
        assert response.status == 201, response
        return str(response.json["cursor"])

    @property
    def cursor(self) -> str:
        """The newest cursor."""
        return str(self.http.get("/data").json["cursor"])

    @property
    def descriptors(self) -> int:
        """Open file descriptors of its process."""
        return int(psutil.Process(self.process.pid).num_fds())


Start = Callable[..., Server]


@contextmanager
def ending_well(servers: Sequence[Server]) -> Iterator[None]:
    """Stop these in the end: with 0, and without traceback."""
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
    """Start servers, which must end well."""
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
def server() -> Iterator[Server]:
    """A server whose data the tests change.

    serve2.py differs in its route alone: the contract, the meters and the page have tests with it.
    """
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture
def page(server: Server) -> Iterator[LabPage]:
    """A page's connection to the instruments of `server`."""
    with LabPage(server.ws) as page:
        yield page


_lanes = count(1)


@pytest.fixture
def lane() -> str:
    """A lane's name that no other test uses."""
    return f"l{next(_lanes)}-lane"


def pytest_exception_interact(call: pytest.CallInfo[Any]) -> None:
    """Close what a failing test has opened: its end would fail another test."""
    frames = [entry.frame for entry in call.excinfo.traceback] if call.excinfo else []
    for value in (value for frame in frames for value in frame.f_locals.values()):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, socket.socket | RawSocket | Wire):
                with suppress(OSError):
                    each.close()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate_folder(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificate")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return folder


@pytest.fixture(scope="session")
def certificate(certificate_folder: Path) -> tuple[str, str]:
    """The paths of the certificate and its key."""
    return str(certificate_folder / "cert.pem"), str(certificate_folder / "key.pem")


@pytest.fixture(scope="session")
def tls_options(certificate: tuple[str, str]) -> tuple[str, ...]:
    """The options for TLS."""
    return "--certfile", certificate[0], "--keyfile", certificate[1]


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """A context that trusts the authority alone."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def counting_tls(trust: ssl.SSLContext) -> Callable[[socket.socket], ssl.SSLSocket]:
    """Begin TLS on a connection, and count what passes within."""
    trust.sslsocket_class = CountingTLS
    return lambda plain: trust.wrap_socket(plain, server_hostname="127.0.0.1")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """After `-k contract`, print the results by server and transport."""
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
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        terminalreporter.line(f"{pair:<40} {summary}")
