"""The table of servers in the docs is what each server does; each command starts its server."""

import os
import re
import shlex
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import psutil
import pytest
import trustme

from bench import memory
from bench.processes import Process
from bench.servers import HOSTED, free_port
from tests.clients import CLOSE, PING, PONG, TEXT, Http, LabPage, RawSocket, frame
from tests.conftest import PROGRAMS, ROOT, Program, Server, eventually
from tests.hosting import WAYS, WITH_TLS, host

PAGE = (ROOT / "docs" / "reference" / "servers.rst").read_text()


def table() -> dict[str, list[str]]:
    """The table of the docs: what each server gives."""
    _, _, rest = PAGE.partition("test_servers.py compares each cell")
    _, _, body, *_ = re.split(r"^=+ .*=\n", rest, flags=re.MULTILINE)
    return {line[:30].strip(): line[30:].split() for line in body.splitlines()}


TABLE = table()
SERVERS = [*PROGRAMS, "servers/threads.py", *HOSTED]


@pytest.fixture(scope="module", params=SERVERS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(way: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--source", "http", "--far", "20")
    server = host(way, tmp_path_factory.mktemp("server"), *options)
    yield server
    assert server.stop() == 0, server.log


def row(way: str) -> list[str]:
    return TABLE["serve.py, serve2.py" if way in PROGRAMS else way]


def test_the_table_has_every_server() -> None:
    assert len(TABLE) == len(SERVERS) - 1  # two of them share a row
    assert all(len(row(way)) == 9 for way in SERVERS)


def processes(server: Server) -> list[psutil.Process]:
    main = psutil.Process(server.process.pid)
    return [main, *main.children(recursive=True)]


def threads(server: Server) -> int:
    return sum(process.num_threads() for process in processes(server))


def test_a_held_request_is_a_greenlet_or_a_thread(way: str, server: Server) -> None:
    newest = server.publish({"n": 1})
    before = threads(server)
    polls = [server.ask(f"/update?after={newest}&timeout=60") for _ in range(20)]
    if row(way)[0] == "thread":
        pool = 100 if way == "uwsgi threads" else 20  # uWSGI has them from the start
        eventually(lambda: threads(server) > pool)
    else:
        assert server.http.get("/data").status == 200  # all that was asked before is being done
        assert threads(server) <= before + 1
    server.publish({"n": 2})
    for poll in polls:
        assert poll.recv(4096).startswith(b"HTTP/1.1 200 ")
        poll.close()


def test_so_many_requests_are_held_at_once(way: str, server: Server) -> None:
    held = row(way)[1]
    if held == "files":
        assert way in (*PROGRAMS, "servers/threads.py", "flask run")
        held = "300"  # and no end of it in sight; thousands are for test_scale.py
    elif held == "10000":  # more than a test should open
        configuration = (ROOT / "servers" / "gunicorn.conf.py").read_text()
        assert "worker_connections = (settings.max_connections or 10_000) + 100" in configuration
        held = "300"
    newest = server.publish({"n": 1})
    path = f"/update?after={newest}&timeout={2 if held == '300' else 6}"
    most = int(held)
    polls = [server.ask(path) for _ in range(most - 1)]
    one = server.ask("/data")
    assert one.recv(4096).startswith(b"HTTP/1.1 200 "), "the last place is there"
    one.close()
    if most != 300:  # it has a limit
        polls.append(server.ask(path))
        waiting = server.ask("/data")
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(4096)
    for poll in polls:
        assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
        poll.close()
    if most != 300:
        waiting.settimeout(15)
        assert waiting.recv(4096).startswith(b"HTTP/1.1 200 "), "its turn comes"
        waiting.close()


def test_who_is_pushed_to_costs_little(server: Server) -> None:
    growth = memory.growth(
        Process(server.process.pid, server.port), "websocket", first=100, more=1000
    )
    assert growth.memory < 3000
    assert growth.threads <= 0


def test_what_those_who_wait_cost_can_be_measured() -> None:
    """As for docs/results/servers.json; what a server needs anyway must not be in it."""
    (kinds,) = memory.measure(["servers/threads.py"], runs=1).values()
    ((pushed,), (poll,), (stream,)) = (kinds[kind] for kind in memory.KINDS)
    assert 0 < pushed < 3000 < min(poll, stream)
    assert max(poll, stream) < 200_000


def test_pings_and_codes(way: str, server: Server) -> None:
    assert row(way)[2:5] == ["yes", "yes", "yes"]  # the last one by the contract
    with RawSocket(server.port, "/lab") as client:
        client.send(frame(PING, b"payload"))
        while (got := client.frame()) != (PONG, b"payload"):
            assert got
        client.send(frame(CLOSE, struct.pack("!H", 4321)))
        assert client.close_code() == 4321


def test_tls(way: str, tmp_path: Path, authority: trustme.CA) -> None:
    assert row(way)[5] == ("yes" if way in WITH_TLS else "no")  # for uWSGI, see test_uwsgi.py
    if way not in WITH_TLS or f"{way} tls" in WAYS:  # the contract is for TLS, too
        return
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server = host(f"{way} tls", tmp_path, "--source", "http")
    newest = server.publish({"n": 1})
    origin = {"Origin": server.url}
    with RawSocket(server.port, "/update", wrap=server.wrap, changes=origin) as client:
        assert client.frame() == (TEXT, b'{"cursor":"%s"}' % newest.encode())
    assert server.stop() == 0, server.log


def test_bytes_are_counted(way: str, server: Server) -> None:
    with LabPage(server.ws) as page:
        about = page.hear("lab")
    assert row(way)[6] == ("yes" if about.get("metered", True) else "no")


def test_far_ports(way: str, server: Server) -> None:
    expected = row(way)[7] == "yes"
    if expected:
        eventually(lambda: any("20 ms away" in line for line in server.out))
    page = server.http.get("/").body
    assert (b"20 ms away" in page) is expected
    assert any("away" in line for line in server.out) is expected


def test_systems(way: str) -> None:
    """As the packages' own classifiers say, where they say anything."""
    makers = {"gunicorn": "gunicorn", "flask_sockets.worker": "gunicorn", "servers/threads.py":
              "werkzeug", "flask run": "werkzeug", "uwsgi gevent": "uwsgi",
              "uwsgi threads": "uwsgi"}  # fmt: skip
    said = metadata(makers.get(way, "gevent")).get_all("Classifier") or []
    everywhere = ("OS Independent", "Windows")
    assert row(way)[8] == ("all" if any(each.endswith(everywhere) for each in said) else "Unix")


#: The commands of the files' first lines.
FIRST_LINES = {
    "gunicorn.conf.py": "gunicorn -c servers/gunicorn.conf.py serve:app",
    "threads.py": "python servers/threads.py",
    "uwsgi.ini": "uwsgi servers/uwsgi.ini",
    "uwsgi-threads.ini": "uwsgi servers/uwsgi-threads.ini",
}


@pytest.mark.parametrize("file", FIRST_LINES)
def test_the_first_line_starts_it(file: str) -> None:
    with (ROOT / "servers" / file).open() as lines:
        assert FIRST_LINES[file] in lines.readline()
    port = free_port()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = Program(
        command=shlex.split(FIRST_LINES[file]), environment={"PORT": str(port), "PATH": path}
    )
    ready = re.compile(rf" at http://127\.0\.0\.1:{port} \(Ctrl-C stops it\)")
    eventually(lambda: ready.search("".join(program.out)) or program.process.poll() is not None)
    assert ready.search("".join(program.out)), program.log
    with RawSocket(port, "/update?carry=1") as client:
        time.sleep(0)
        assert client.frame()
        program.process.send_signal(signal.SIGINT)  # Ctrl-C
        assert client.close_code() == 1001
    assert program.wait() == 0, program.log
    assert "Traceback" not in program.log


@pytest.mark.parametrize("file", FIRST_LINES)
def test_a_taken_port_is_told(file: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = Program(
            command=shlex.split(FIRST_LINES[file]), environment={"PORT": port, "PATH": path}
        )
        assert program.wait(30) != 0
    assert "in use" in program.log
    assert "Traceback" not in program.log


@pytest.mark.parametrize("options", ["--nope", "'", "--port seven"])
def test_bad_options_in_the_environment_are_one_line(options: str) -> None:
    """On gunicorn, too, which would start a worker again and again."""
    for command in ("serve.py", "servers/threads.py"):
        program = Program(command, environment={"PUSHLAB_OPTIONS": options})
        assert program.wait() == 2
        assert program.log.count("\n") == 1, program.log
    gunicorn = [str(Path(sys.executable).with_name("gunicorn")), "--no-control-socket"]
    for arguments in (
        ["-c", "servers/gunicorn.conf.py", "serve:app"],
        ["-k", "flask_sockets.worker", "-b", "127.0.0.1:0", "serve2:app"],
    ):
        program = Program(*arguments, command=gunicorn, environment={"PUSHLAB_OPTIONS": options})
        assert program.wait() != 0
        assert "Traceback" not in program.log, program.log


def test_a_preloaded_app_begins_anew_in_each_worker() -> None:
    """Or a new worker would count again from 1, in the same epoch, and no browser would hear it."""
    port = free_port()
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    server = Program(
        "-c", "servers/gunicorn.conf.py", "--preload", "serve:app",
        command=[gunicorn], environment={"PORT": str(port), "PUSHLAB_OPTIONS": "--source http"},
    )  # fmt: skip
    http = Http("127.0.0.1", port)

    def cursor() -> str:
        try:
            return str(http.get("/data").json["cursor"])
        except OSError:
            return ""

    first = eventually(cursor)
    assert http.post("/data", {"n": 1}).json["cursor"] == first.replace("-0", "-1")
    (worker,) = psutil.Process(server.process.pid).children()
    worker.kill()
    second = eventually(lambda: (now := cursor()) and now != first.replace("-0", "-1") and now)
    assert second.endswith("-0")
    assert second != first
    assert server.stop() == 0, server.log


def test_gunicorn_says_when_it_is_full() -> None:
    port = free_port()
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    server = Program(
        "-c", "servers/gunicorn.conf.py", "serve:app",
        command=[gunicorn], environment={"PORT": str(port), "PUSHLAB_OPTIONS": "--max-clients 2"},
    )  # fmt: skip
    eventually(lambda: server.out)
    held = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(2)]
    for each in held:
        each.sendall(b"GET /data HTTP/1.1\r\n")
    assert eventually(lambda: Http("127.0.0.1", port).get("/data").status) == 503
    for each in held:
        each.close()
    assert server.stop() == 0, server.log


def test_gunicorn_heeds_options_for_any_app() -> None:
    port = free_port()
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    server = Program(
        "-c", "servers/gunicorn.conf.py", "examples.echo:app", command=[gunicorn],
        environment={"PORT": str(port), "PUSHLAB_OPTIONS": "--allow-host example.org"},
    )  # fmt: skip
    eventually(lambda: server.out)
    http = Http("127.0.0.1", port)
    assert http.get("/", headers={"Host": "example.org"}).status == 200
    assert http.get("/", headers={"Host": "example.com"}).status == 421
    assert server.stop() == 0, server.log


def test_nginx_passes_no_forwarded_host_of_the_browser_s(tmp_path: Path) -> None:
    server = host("nginx", tmp_path, "--source", "http")
    for name in ("X-Forwarded-Host", "X_Forwarded_Host"):
        page = server.http.get("/", headers={name: "evil.example"})
        assert page.status == 200
        assert "evil" not in page.headers["Content-Security-Policy"]
    assert server.http.get("/", headers={"Upgrade": "h2c"}).status == 200
    assert server.http.post("/data", {}).status == 201, "nginx says that it is for this machine"
    assert server.stop() == 0, server.log
