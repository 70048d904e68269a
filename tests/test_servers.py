"""The docs' table of servers, and each server's command."""

import os
import re
import selectors
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import metadata
from pathlib import Path

import psutil
import pytest

from bench import memory, servers
from bench.fanout.subscribers import subscribers
from bench.memory import KINDS
from bench.processes import NotRunning, Process
from bench.servers import HOSTED, free_port, started
from tests.clients import TEXT, LabPage, RawSocket, Wire
from tests.conftest import PROGRAMS, ROOT, Program, Server, eventually
from tests.hosting import GUNICORN, SERVERS, WITH_TLS, Hosted, start_server

PAGE = (ROOT / "docs" / "reference" / "servers.rst").read_text()


def table() -> dict[str, list[str]]:
    """Return the table's rows, by server."""
    _, _, rest = PAGE.partition("test_servers.py compares each cell")
    _, _, body, *_ = re.split(r"^=+ .*=\n", rest, flags=re.MULTILINE)
    return {line[:30].strip(): line[30:].split() for line in body.splitlines()}


TABLE = table()
NAMES = [*PROGRAMS, "servers/threads.py", *HOSTED]


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(name: str, certificate_folder: Path) -> Iterator[Server]:
    server = start_server(name, certificate_folder, "--source", "http", "--far", "20")
    yield server
    assert server.stop() == 0, server.log


def row(name: str) -> list[str]:
    return TABLE["serve.py, serve2.py" if name in PROGRAMS else name]


def test_the_table_has_every_server() -> None:
    assert len(TABLE) == len(NAMES) - 1  # two of them share a row
    assert all(len(row(name)) == 9 for name in NAMES)
    assert all(row(name)[2:5] == ["yes"] * 3 for name in NAMES)  # test_contract.py tests these


def threads(server: Server) -> int:
    main = psutil.Process(server.process.pid)
    return sum(process.num_threads() for process in [main, *server.children])


def test_a_held_request_is_a_greenlet_or_a_thread(name: str, server: Server) -> None:
    newest = server.publish({"n": 1})
    before = threads(server)
    polls = [server.send_get(f"/update?after={newest}&timeout=60") for _ in range(20)]
    if row(name)[0] == "thread":
        pool = 100 if name == "uwsgi threads" else 20  # uWSGI has them from the start
        eventually(lambda: threads(server) > pool)
    else:
        server.until_idle()
        assert threads(server) <= before + 1
    server.publish({"n": 2})
    for poll in polls:
        assert poll.recv(4096).startswith(b"HTTP/1.1 200 ")
        poll.close()


def test_the_number_of_held_requests(name: str, server: Server) -> None:
    held = row(name)[1]
    if held == "files":
        assert not name.startswith("uwsgi")
        held = "300"  # without a limit; test_scale.py tests thousands
    newest = server.publish({"n": 1})
    path = f"/update?after={newest}&timeout=60"
    most = int(held)
    polls = [server.send_get(path) for _ in range(most - 1)]
    one = server.send_get("/data")
    assert one.recv(4096).startswith(b"HTTP/1.1 200 "), "the last place is there"
    one.close()
    if most != 300:  # it has a limit
        last = server.send_get(f"/update?after={newest}&timeout=1")
        waiting = server.send_get("/data")
        with selectors.DefaultSelector() as selector:  # `select` has no descriptors above 1023
            for each in (last, waiting):
                selector.register(each, selectors.EVENT_READ)
            readable = [key.fileobj for key, _ in selector.select()]
        assert last in readable, "its turn comes when the last place is free"
        assert last.recv(4096).startswith(b"HTTP/1.1 204 ")
        last.close()
        assert waiting.recv(4096).startswith(b"HTTP/1.1 200 ")
        waiting.close()
    server.publish({"n": 2})
    for poll in polls:
        assert poll.recv(4096).startswith(b"HTTP/1.1 200 ")
        poll.close()


def test_worker_connections_limit_requests_in_greenlets(few_greenlets: Hosted) -> None:
    server = few_greenlets
    assert server.http.get("/healthz").status == 200, "requests are Flask's until the first is over"
    newest, polls = server.cursor, []
    for _ in range(5):
        polls.append(server.open_socket())  # an HTTP/1.0 client gets no chunks: it keeps a greenlet
        polls[-1].sendall(f"GET /update?after={newest} HTTP/1.0\r\n\r\n".encode())
    eventually(lambda: server.http.get("/healthz").status == 503)
    with server.send_get(f"/update?after={newest}") as held:
        assert server.cursor == newest, "what needs no greenlet is served"
        polls.pop().close()
        eventually(lambda: server.http.get("/healthz").status == 200)
        server.publish({"n": 2})
        for poll in [*polls, held]:
            assert poll.recv(4096).startswith(b"HTTP/1.1 200 ")
            poll.close()


def test_the_access_log_of_gunicorn_has_every_request() -> None:
    server = Hosted(*GUNICORN, "--access-logfile", "-", "serve:app", options=("--source", "http"))
    for number in range(3):
        assert server.http.get(f"/data?number={number}").status == 200
    assert server.stop() == 0, server.log
    for number in range(3):
        assert sum(f"GET /data?number={number} " in line for line in server.out) == 1


@pytest.fixture
def few_greenlets() -> Iterator[Hosted]:
    command = (*GUNICORN, "--worker-connections", "5", "serve:app")
    server = Hosted(*command, options=("--source", "http"))
    yield server
    assert server.stop() == 0, server.log


def test_a_push_socket_costs_little(server: Server) -> None:
    process = Process([server.process.pid], server.port)
    assert memory.growth(process, "websocket", first=100, more=1000) < 3000
    with subscribers(server.port) as those:
        those.broadcast()
        those.join(50)
        process.cpu(interval=memory.IDLE_TIME)  # which waits until the server is idle
        before = threads(server)
        those.join(100)
        eventually(lambda: threads(server) <= before)


def test_the_memory_of_held_requests_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for docs/results/servers.json, without what a server needs for itself."""
    fewer = {
        kind: (name, first, more) if name == "websocket" else (name, first // 2, more // 4)
        for kind, (name, first, more) in KINDS.items()
    }
    monkeypatch.setattr(memory, "KINDS", fewer)
    (kinds,) = memory.measure(["servers/threads.py"], runs=1).values()
    ((pushed,), (poll,), (stream,)) = (kinds[kind] for kind in KINDS)
    assert 0 < pushed < 5000 < min(poll, stream)
    assert max(poll, stream) < 200_000


def test_tls(name: str, certificate_folder: Path) -> None:
    assert row(name)[5] == ("yes" if name in WITH_TLS else "no")  # for uWSGI, see test_uwsgi.py
    if name not in WITH_TLS or f"{name} tls" in SERVERS:  # the contract tests their TLS
        return
    server = start_server(f"{name} tls", certificate_folder, "--source", "http")
    newest = server.publish({"n": 1})
    origin = {"Origin": server.url}
    with server.websocket(changes=origin) as client:
        assert client.frame() == (TEXT, b'{"cursor":"%s"}' % newest.encode())
    assert server.stop() == 0, server.log


def test_bytes_are_counted(name: str, server: Server) -> None:
    with LabPage(server.ws) as page:
        about = page.wait_for("lab")
    assert row(name)[6] == ("yes" if about.get("metered", True) else "no")


def test_far_ports(name: str, server: Server) -> None:
    expected = row(name)[7] == "yes"
    if expected:
        eventually(lambda: any("20 ms away" in line for line in server.out))
    page = server.http.get("/").body
    assert (b"20 ms away" in page) is expected
    assert any("away" in line for line in server.out) is expected


def test_systems(name: str) -> None:
    """As the packages' classifiers say, where they have any."""
    makers = {"gunicorn": "gunicorn", "flask_sockets.worker": "gunicorn", "servers/threads.py":
              "werkzeug", "flask run": "werkzeug", "uwsgi gevent": "uwsgi",
              "uwsgi threads": "uwsgi"}  # fmt: skip
    classifiers = metadata(makers.get(name, "gevent")).get_all("Classifier") or []
    everywhere = ("OS Independent", "Windows")
    is_portable = any(each.endswith(everywhere) for each in classifiers)
    assert row(name)[8] == ("all" if is_portable else "Unix")


#: The commands in the files' first lines.
FIRST_LINES = {
    "gunicorn.conf.py": "gunicorn -c servers/gunicorn.conf.py serve:app",
    "threads.py": "python servers/threads.py",
    "uwsgi.ini": "uwsgi servers/uwsgi.ini",
    "uwsgi-threads.ini": "uwsgi servers/uwsgi-threads.ini",
}


def run_first_line(file: str, port: int) -> Program:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PORT": str(port), "PATH": path}
    return Program(command=shlex.split(FIRST_LINES[file]), environment=environment)


@pytest.mark.parametrize("file", FIRST_LINES)
def test_the_first_line_starts_the_server(file: str) -> None:
    with (ROOT / "servers" / file).open() as lines:
        assert FIRST_LINES[file] in lines.readline()
    port = free_port()
    program = run_first_line(file, port)
    ready = re.compile(rf" at http://127\.0\.0\.1:{port} \(Ctrl-C stops it\)")
    eventually(lambda: ready.search("".join(program.out)) or program.process.poll() is not None)
    assert ready.search("".join(program.out)), program.log
    with RawSocket(port, "/update?carry=1") as client:
        assert client.frame()
        program.process.send_signal(signal.SIGINT)  # Ctrl-C
        assert client.close_code() == 1001
    assert program.wait() == 0, program.log
    assert "Traceback" not in program.log


@pytest.mark.parametrize("file", FIRST_LINES)
def test_a_taken_port_is_reported(file: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program = run_first_line(file, taken.getsockname()[1])
        assert program.wait() != 0
    assert "in use" in program.log
    assert "Traceback" not in program.log


@pytest.mark.parametrize("options", ["--nope", "'", "--port seven"])
def test_bad_options_in_the_environment_are_one_line(options: str) -> None:
    """On gunicorn, too, which would restart its worker for ever."""
    for command in ("servers/threads.py", "serve.py"):
        program = Program(command, environment={"PUSHLAB_OPTIONS": options})
        assert program.wait() == 2
        assert program.log.count("\n") == 1, program.log
        if options != "--nope":  # the others read them with the same function
            return
    gunicorn = [str(Path(sys.executable).with_name("gunicorn")), "--no-control-socket"]
    for arguments in (
        ["-c", "servers/gunicorn.conf.py", "serve:app"],
        ["-k", "flask_sockets.worker", "-b", "127.0.0.1:0", "serve2:app"],
    ):
        program = Program(*arguments, command=gunicorn, environment={"PUSHLAB_OPTIONS": options})
        assert program.wait() != 0
        assert "Traceback" not in program.log, program.log


def test_a_preloaded_app_begins_a_new_epoch_in_each_worker() -> None:
    """Or a new worker would use an old epoch's cursors."""
    server = Hosted(*GUNICORN, "--preload", "serve:app", options=("--source", "http"))
    first = server.cursor
    assert server.publish({"n": 1}) == first.replace("-0", "-1")
    (worker,) = psutil.Process(server.process.pid).children()
    worker.kill()

    def cursor() -> str:
        try:
            return server.cursor
        except OSError:
            return ""

    second = eventually(lambda: (now := cursor()) and now != first.replace("-0", "-1") and now)
    assert second.endswith("-0")
    assert second != first
    assert server.stop() == 0, server.log


def test_gunicorn_has_several_listeners() -> None:
    """One worker serves both: a change reaches those of each, and so does the end."""
    second = free_port()
    binds = ("-b", "127.0.0.1:{port}", "-b", f"127.0.0.1:{second}")
    server = Hosted(*GUNICORN, *binds, "serve:app", options=("--source", "http"))
    with ExitStack() as stack:
        stack.callback(server.stop)
        newest = server.cursor
        paths = {"poll": f"/update?after={newest}", "stream": f"/update?after={newest}"}
        fields = {"poll": "", "stream": "Accept: text/event-stream\r\n"}
        clients = {
            (port, kind): stack.enter_context(Wire(port))
            for port in (server.port, second)
            for kind in paths
        }
        for (port, kind), client in clients.items():
            head = f"GET {paths[kind]} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{fields[kind]}\r\n"
            client.socket.sendall(head.encode())
        cursor = server.publish({})
        for (_, kind), client in clients.items():
            if kind == "poll":
                assert client.response().json["cursor"] == cursor
        server.process.send_signal(signal.SIGTERM)
        for (_, kind), client in clients.items():
            rest = client.rest()
            assert rest.endswith(b"\r\n0\r\n\r\n") if kind == "stream" else rest == b""
        assert server.wait() == 0


def test_a_full_gunicorn_responds_with_503() -> None:
    options = ("--max-clients", "2", "--head-timeout", "600")
    server = Hosted(*GUNICORN, "serve:app", options=options)
    with ExitStack() as held:

        def is_full() -> bool:
            """Hold one more place: a request before this one may still have had it."""
            held.enter_context(server.open_socket()).sendall(b"GET /data HTTP/1.1\r\n")
            return server.http.get("/data").status == 503

        eventually(is_full)
    assert server.stop() == 0, server.log


def test_gunicorn_applies_options_to_any_app() -> None:
    options = ("--allow-host", "example.org")
    server = Hosted(*GUNICORN, "examples.echo:app", options=options)
    assert server.http.get("/", headers={"Host": "example.org"}).status == 200
    assert server.http.get("/", headers={"Host": "example.com"}).status == 421
    assert server.stop() == 0, server.log


def test_nginx_replaces_the_browsers_forwarded_host(certificate_folder: Path) -> None:
    server = start_server("nginx", certificate_folder, "--source", "http")
    for name in ("X-Forwarded-Host", "X_Forwarded_Host", "X-Forwarded-Prefix"):
        page = server.http.get("/", headers={name: "evil.example"})
        assert page.status == 200
        assert "evil" not in page.headers["Content-Security-Policy"]
        assert b"evil" not in page.body
    assert server.http.get("/", headers={"Upgrade": "h2c"}).status == 200
    assert server.http.post("/data", {}).status == 201, "nginx forwards this machine's address"
    assert server.stop() == 0, server.log


def test_another_server_on_the_port_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("serve.py") as first:
        assert first.is_alive
        monkeypatch.setattr(servers, "free_port", lambda: first.port)
        with pytest.raises(NotRunning, match=f"Port {first.port} is in use"), started("serve.py"):
            pass
