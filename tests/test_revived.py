"""The seeds' programs: each with a real client, on each server that its README names."""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import greenlet
import pytest

from bench.servers import free_port
from pushlab.revived.flask_threaded_sockets import ThreadedWebsocketServer, ThreadedWsWSGIServer
from tests.clients import BINARY, HANG_TIMEOUT, PING, TEXT, RawSocket, frame, open_websocket
from tests.conftest import Program, Server, eventually
from tests.hosting import BIN

GUNICORN = "gunicorn --no-control-socket -b 127.0.0.1:{port} -k"
UWSGI = "uwsgi --master --die-on-term --http 127.0.0.1:{port} --http-websockets"

#: By name, how a program is served, and what `app.run` gets.
SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "sockets": ("python tests/revived/sockets.py", {}),
    "sockets, our worker": (f"{GUNICORN} pushlab.sockets.worker tests.revived.sockets:app", {}),
    "sockets, its worker": (f"{GUNICORN} flask_sockets.worker tests.revived.sockets:app", {}),
    "threaded": ("python tests/revived/threaded.py", {}),
    "blog": ("python tests/revived/blog.py", {}),
    "blog, gunicorn": (f"{GUNICORN} pushlab.sockets.worker tests.revived.blog:my_app", {}),
    "echo, gevent": ("python tests/revived/uwsgi_echo.py", {"gevent": 100}),
    "echo, by hand": (f"{UWSGI} --gevent 100 --wsgi tests.revived.uwsgi_echo:app", {}),
    "echo, debug": ("python tests/revived/uwsgi_echo.py", {"debug": True, "threads": 8}),
    "echo, gunicorn": (f"{GUNICORN} pushlab.sockets.worker tests.revived.uwsgi_echo:app", {}),
    "client": ("python tests/revived/uwsgi_client.py", {"threads": 8, "sharedarea": 1}),
    "client, gevent": ("python tests/revived/uwsgi_client.py", {"gevent": 100}),
    "client, processes": ("python tests/revived/uwsgi_client.py", {"processes": 4}),
    "client, by hand": (f"{UWSGI} --processes 2 --wsgi tests.revived.uwsgi_client:app", {}),
    "chat": ("python tests/revived/asyncio_chat.py", {"asyncio": 100, "greenlet": True}),
    "chat, threads": ("python tests/revived/asyncio_threads.py", {}),
}  # fmt: skip

#: What a program leaves behind that SIGTERM ends as it ends any other.
STATUS = {"sockets": -15}


class Served(Server):
    """One of SERVED that responds to requests."""

    def __init__(self, name: str, **more: Any) -> None:
        self.name, self.port = name, free_port()
        line, options = SERVED[name]
        executable, *arguments = shlex.split(line.format(port=self.port))
        environment = {"PORT": str(self.port), "OPTIONS": json.dumps({**more, **options})}
        Program.__init__(
            self, *arguments, command=[str(BIN / executable)], environment=environment
        )  # fmt: skip
        self.is_at(f"http://127.0.0.1:{self.port}")
        eventually(lambda: self.responds("/"))

    def connect(self, path: str) -> Any:
        """Connect with a strict client."""
        return open_websocket(self.ws + path)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uWSGI's plugins for asyncio, compiled for the uWSGI of these tests."""
    folder = tmp_path_factory.mktemp("plugins")
    run = partial(subprocess.run, cwd=folder, check=True, capture_output=True)
    source = f"uwsgi=={version('uwsgi')}"
    run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "uwsgi", source])
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = folder.glob("*/plugins")
    environment = os.environ | {"CFLAGS": f"-I{Path(greenlet.__file__).parent.parent}"}
    for name in ("asyncio", "greenlet"):
        run([BIN / "uwsgi", "--build-plugin", unpacked / name], env=environment)
    return folder


class Serve:
    """Serves each of SERVED once for all tests."""

    def __init__(self, plugins: Callable[[], Path]) -> None:
        self._plugins = plugins
        self._servers: dict[str, Served] = {}

    def __call__(self, name: str) -> Served:
        if name not in self._servers:
            more: dict[str, Any] = {}
            if "asyncio" in SERVED[name][1]:
                more = {"plugins_dir": str(self._plugins()), "plugin": ["asyncio", "greenlet"]}
            self._servers[name] = Served(name, **more)
        return self._servers[name]

    def end(self, *names: str) -> None:
        """Stop servers, which must end well; all if none is named."""
        servers = [self._servers.pop(name) for name in names or tuple(self._servers)]
        for server in servers:
            server.process.terminate()
        for server in servers:
            assert server.wait() == STATUS.get(server.name, 0), (server.name, server.log)
            errors = re.findall(r"(?m)^Traceback(?:\n .*)+\n(.*)", server.log)
            assert all("on purpose" in each for each in errors), (server.name, server.log)


@pytest.fixture(scope="module")
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    serve = Serve(lambda: Path(request.getfixturevalue("plugins")))
    yield serve
    serve.end()


def of(program: str) -> pytest.MarkDecorator:
    """Parametrize a test with every way in which a program is served."""
    return pytest.mark.parametrize("name", [name for name in SERVED if name.startswith(program)])


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, "/websocket" if "blog" in name else "/echo") for name in SERVED
     if not name.startswith(("client", "chat"))],
)  # fmt: skip
def test_its_messages_come_back(serve: Serve, name: str, path: str) -> None:
    server = serve(name)
    with server.connect(path) as one, server.connect(path) as other:
        for socket in (other, one):
            socket.send('["Grüße"]')
        for socket in (one, other):
            reply = json.loads(socket.recv(HANG_TIMEOUT))
            assert reply == ({"output": ["Grüße"]} if "blog" in name else ["Grüße"])
        if "blog" not in name:
            one.send(b"\0\xff")
            assert one.recv(HANG_TIMEOUT) == b"\0\xff"
    assert one.protocol.close_code == other.protocol.close_code == 1000
    assert server.http.get("/").body == b"Hello"


# Flask-Sockets and Flask-Threaded-Sockets.

SOCKETS = [name for name in SERVED if name.startswith(("sockets", "threaded"))]


@pytest.mark.parametrize("name", SOCKETS)
def test_routes_variables_and_sessions(serve: Serve, name: str) -> None:
    server = serve(name)
    cookie = server.http.post("/login", {}).headers["Set-Cookie"].partition(";")[0]
    headers = {"Cookie": f"{cookie}; taste=sweet"}
    with open_websocket(f"{server.ws}/room/blue/7", additional_headers=headers) as socket:
        assert socket.recv(HANG_TIMEOUT) == "blue 7 Zoë sweet"
    for path in ("/echo", "/room/blue/7", "/nowhere"):
        assert server.http.get(path).status == 404


@pytest.mark.parametrize("name", SOCKETS)
def test_send_frame_and_close(serve: Serve, name: str) -> None:
    with RawSocket(serve(name).port, "/frames") as socket:
        assert [socket.frame() for _ in range(3)] == [
            (TEXT, b"text"), (BINARY, b"\0\xff"), (PING, b"ping")
        ]  # fmt: skip
        socket.send(frame(TEXT, b"go on"))
        assert socket.close_payload() == (4000).to_bytes(2, "big") + b"enough"


@pytest.mark.parametrize("name", SOCKETS)
def test_limits_hold(serve: Serve, name: str) -> None:
    """Also behind gevent-websocket's own handler, which has none."""
    for sent, code in (
        (frame(TEXT, b"x" * 65537), 1009),
        (frame(TEXT, b"\xff"), 1007),
        (b"\x81\x01x", 1002),  # not masked
    ):
        with RawSocket(serve(name).port, "/echo") as socket:
            socket.send(sent)
            assert socket.close_code() == code


@pytest.mark.parametrize("name", SOCKETS)
def test_pages_from_elsewhere_are_refused(serve: Serve, name: str) -> None:
    """With 403; gevent-websocket's own handler has sent the 101 by then."""
    with RawSocket(serve(name).port, "/echo", changes={"Origin": "http://evil.example"}) as socket:
        if name != "sockets":
            assert socket.status == 403
        else:
            assert socket.close_code() == 1008


def test_the_worker_is_ours_and_nothing_else() -> None:
    from pushlab import sockets
    from pushlab.hosting.gunicorn import Worker

    assert sockets.worker is Worker
    with pytest.raises(AttributeError, match="has no attribute 'workers'"):
        getattr(sockets, "workers")  # noqa: B009 - mypy knows that, too


def test_both_names_of_the_server_are_one_class() -> None:
    assert ThreadedWebsocketServer is ThreadedWsWSGIServer


def test_the_server_serves_in_any_thread(tmp_path: Path) -> None:
    """And port 0, an address in use, and `shutdown`."""
    source = (
        "import threading\n"
        "from urllib.request import urlopen\n"
        "from tests.revived.sockets import app\n"
        "from pushlab.hosting import StartupError\n"
        "from pushlab.revived.flask_threaded_sockets import ThreadedWsWSGIServer\n"
        "server = ThreadedWsWSGIServer('127.0.0.1', 0, app)\n"
        "thread = threading.Thread(target=server.serve_forever)\n"
        "thread.start()\n"
        "port = server.server_address[1]\n"
        "print(urlopen(f'http://127.0.0.1:{port}/').read())\n"
        "try:\n"
        "    ThreadedWsWSGIServer('127.0.0.1', port, app)\n"
        "except StartupError as error:\n"
        "    print(error)\n"
        "server.shutdown()\n"
        "thread.join()\n"
    )
    program = Program("-c", source)
    assert program.wait() == 0, program.log
    url, body, error = program.out
    port = re.findall(r":([0-9]+) ", url)[0]
    assert body == "b'Hello'\n"
    assert error.startswith(f"Port {port} is in use. ")
    assert program.log == ""


# Flask-uWSGI-WebSocket.


@of("echo")
def test_a_message_goes_to_all_clients(serve: Serve, name: str) -> None:
    server = serve(name)
    with ExitStack() as stack:
        sockets = [stack.enter_context(server.connect(f"/chat/blue?name={n}")) for n in range(3)]
        for number, socket in enumerate(sockets):
            assert socket.recv(HANG_TIMEOUT) == f"blue {number}"
        sockets[0].send("über alles")
        for socket in sockets:
            assert socket.recv(HANG_TIMEOUT) == "ÜBER ALLES"
    eventually(lambda: server.http.get("/clients").json["clients"] == 0)


def test_debugging_shows_the_error(serve: Serve) -> None:
    """In the debugger, of which the app itself says nothing."""
    for name, is_debugging in (("echo, debug", True), ("echo, gevent", False)):
        response = serve(name).http.get("/fail")
        assert response.status == 500
        assert (b"LookupError: on purpose" in response.body) == is_debugging
        assert (b"Werkzeug Debugger" in response.body) == is_debugging


@of("client")
def test_every_method_of_a_client(serve: Serve, name: str) -> None:
    with serve(name).connect("/client/methods") as socket:
        receive = partial(socket.recv, HANG_TIMEOUT)
        assert [receive() for _ in range(6)] == [
            "SHOUTED", "text", b"\0\xff", b"as bytes", b"so, too", "go on"
        ]  # fmt: skip
        socket.send("one")
        socket.send("two")
        assert [receive(), receive()] == ["not waited for: one", "waited for: two"]
        eventually(lambda: socket.protocol.close_code)
        assert (socket.protocol.close_code, socket.protocol.close_reason) == (4000, "enough")


def test_a_shared_area_is_sent(serve: Serve) -> None:
    with serve("client").connect("/client/area/0") as socket:
        text, binary = socket.recv(HANG_TIMEOUT), socket.recv(HANG_TIMEOUT)
        assert text.rstrip("\0") == " area!"
        assert (binary[:12], len(binary)) == (b"Hello, area!", len(text) + 6)
    for name, error in (("client", "error calling"), ("client, processes", "no shared area")):
        with serve(name).connect("/client/area/5") as socket:
            assert error in socket.recv(HANG_TIMEOUT)


@pytest.mark.parametrize("route", ["ticks", "polls"])
def test_a_route_that_only_looks_notices_the_end(serve: Serve, route: str) -> None:
    server = serve("client")
    with server.connect(f"/client/{route}") as socket:
        if route == "ticks":
            assert socket.recv(HANG_TIMEOUT) == "tick"
    eventually(lambda: route in server.http.get("/").json["ended"])


def test_processes_share_the_work(serve: Serve) -> None:
    server = serve("client, processes")
    with ExitStack() as stack:  # each conversation has a process of the four
        for _ in range(3):
            socket = stack.enter_context(server.connect("/client/ticks"))
            assert socket.recv(HANG_TIMEOUT) == "tick"
        assert server.http.get("/").status == 200


@of("chat")
def test_a_chat_of_coroutines(serve: Serve, name: str) -> None:
    server = serve(name)
    thread = "asyncio" if "threads" in name else "uWSGIWorker1Core0"
    with ExitStack() as stack:
        sockets = [stack.enter_context(server.connect(f"/chat/red?name={n}")) for n in range(20)]
        for number, socket in enumerate(sockets):
            assert socket.recv(HANG_TIMEOUT) == f"red {number} in {thread}"
        assert server.http.get("/").json["clients"] == 20
        sockets[0].send("über alles")
        for socket in sockets:
            assert socket.recv(HANG_TIMEOUT) == "über alles"
    eventually(lambda: server.http.get("/").json["clients"] == 0)


@of("chat")
def test_every_method_of_a_coroutines_client(serve: Serve, name: str) -> None:
    with serve(name).connect("/methods") as socket:
        assert socket.recv(HANG_TIMEOUT) == b"not waited for"
        socket.send("back")
        assert socket.recv(HANG_TIMEOUT) == "back"
        for _ in range(100):  # more than the system keeps for a connection
            assert socket.recv(HANG_TIMEOUT) == "x" * 60_000
        socket.send(b"last")
        assert socket.recv(HANG_TIMEOUT) == b"last"
        eventually(lambda: socket.protocol.close_code == 1000)


@of("chat")
def test_a_browser_that_does_not_read_is_given_up(serve: Serve, name: str) -> None:
    server = serve(name)
    with RawSocket(server.port, "/flood"):
        eventually(lambda: "flood" in server.http.get("/").json["ended"])


@of("chat")
def test_coroutines_end_and_fail(serve: Serve, name: str) -> None:
    server = serve(name)
    with server.connect("/ticks") as socket:
        assert socket.recv(HANG_TIMEOUT) == "tick"
    eventually(lambda: "ticks" in server.http.get("/").json["ended"])
    with RawSocket(server.port, "/fail") as raw:
        assert raw.close_code() == 1011
    with RawSocket(server.port, "/ticks") as raw:  # a browser that is gone without a close frame
        raw.frame()
    eventually(lambda: server.http.get("/").json["ended"].count("ticks") == 2)


def test_a_route_that_is_no_coroutine_is_refused() -> None:
    from flask import Flask

    from pushlab.revived.flask_uwsgi_websocket import AsyncioWebSocket

    websocket = AsyncioWebSocket(Flask(__name__))
    with pytest.raises(TypeError, match="a route of AsyncioWebSocket is an `async def`"):
        websocket.route("/echo")(lambda ws: None)


@pytest.mark.parametrize(
    "name", ["threaded", "echo, gevent", "echo, debug", "client", "chat", "chat, threads"]
)
def test_a_stop_closes_with_1001(serve: Serve, name: str) -> None:
    server = serve(name)
    path = {"client": "/client/ticks", "chat": "/ticks"}.get(name.partition(",")[0], "/echo")
    with RawSocket(server.port, path) as socket:
        if path == "/echo":
            socket.send(frame(TEXT, b"x"))
        socket.frame()
        server.process.terminate()
        assert socket.close_code() == 1001
    serve.end(name)
