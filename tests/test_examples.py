"""The examples: run by their own first lines, hosted by other servers, met by real clients."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websocket import create_connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.browsing import Browser
from tests.clients import CLOSE, TEXT, Http, RawSocket, frame
from tests.conftest import ROOT, Program, Server, eventually

#: Each way to host an example: the command, which the environment gives any free PORT.
HOSTS = {
    "itself": "{first_line}",
    "gunicorn": "gunicorn -c servers/gunicorn.conf.py examples.{example}:app",
}
EXAMPLES = sorted(
    path.stem for path in (ROOT / "examples").glob("*.py") if not path.stem.startswith("on_")
)


def docstring(example: str) -> str:
    source = (ROOT / "examples" / f"{example}.py").read_text()
    return str(ast.get_docstring(ast.parse(source)))


class Example(Server):
    """A running example, ready for requests."""

    def __init__(self, example: str, host: str, *options: str, **environment: str) -> None:
        first_line = docstring(example).partition(":")[0]
        command = shlex.split(HOSTS[host].format(example=example, first_line=first_line))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"PORT": "0", "PATH": path, **environment}
        assignments = [f"{name}={value}" for name, value in variables.items()]
        Program.__init__(self, *command, *options, command=["env", *assignments])
        self.url = self._url()
        self.port = int(self.url.rpartition(":")[2])
        self.http = Http("127.0.0.1", self.port)

    def _url(self) -> str:
        ready = re.compile(r"https?://[\d.]+:\d+")
        eventually(lambda: ready.search("".join(self.out)) or self.process.poll() is not None)
        found = ready.search("".join(self.out))
        assert found, self.log
        return found[0]

    def connect(self, path: str, **options: Any) -> ClientConnection:
        """A strict client; use it in a `with`."""
        client: ClientConnection = connect(self.ws + path, **options)
        return client

    def status(self, path: str, **changes: str | None) -> int:
        """What the server answers to a handshake, with these headers changed."""
        headers = {name.replace("_", "-"): value for name, value in changes.items()}
        with RawSocket(self.port, path, changes=headers) as socket:
            return socket.status


@contextmanager
def running(example: str, host: str, *options: str, **environment: str) -> Iterator[Example]:
    """Run an example; in the end it must stop by itself, cleanly, and without a traceback."""
    server = Example(example, host, *options, **environment)
    try:
        yield server
    finally:
        status = server.stop() if server.process.poll() is None else server.wait()
    assert status == 0, server.log
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(host: str) -> Iterator["Run"]:
    with ExitStack() as stack:
        yield Run(host, stack)


class Run:
    """The examples on one host, each started when it is first asked for."""

    def __init__(self, host: str, stack: ExitStack) -> None:
        self.host, self.stack = host, stack
        self.servers: dict[str, Example] = {}

    def __call__(self, example: str) -> Example:
        if example not in self.servers:
            self.servers[example] = self.stack.enter_context(
                running(example, self.host, EXAMPLE_PASSWORD=PASSWORD)
            )
        return self.servers[example]


PASSWORD = "open sesame, ü"


# What holds for all of them.


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_is_at_most_a_screen_and_says_what_it_revives(example: str) -> None:
    source = (ROOT / "examples" / f"{example}.py").read_text()
    assert source.startswith(f'"""python examples/{example}.py: ')
    assert "\n\nWhat changed: " in docstring(example)
    assert len(source.splitlines()) <= 70
    assert f"examples/{example}.py" in (ROOT / "README.rst").read_text()


@pytest.mark.parametrize("example", EXAMPLES)
def test_importing_it_patches_nothing(example: str) -> None:
    say = f"import examples.{example}, time, socket; print(time.sleep, socket.socket.__module__)"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout == "<built-in function sleep> socket\n"


@pytest.mark.parametrize("example", EXAMPLES)
def test_its_page_is_strict(example: str, run: Run) -> None:
    page = run(example).http.get("/")
    if page.status == 302:
        page = run(example).http.get(page.headers["Location"])
    assert page.status == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert b"://" not in page.body, "nothing comes from elsewhere"


@pytest.mark.parametrize("example", EXAMPLES)
def test_mistakes_are_json(example: str, run: Run) -> None:
    http = run(example).http
    for answer, status in (
        (http.get("/nowhere"), 404),
        (http.post("/nowhere", {}), 404),
        (http.request("DELETE", "/static/style.css"), 405),
    ):
        assert answer.status == status
        assert set(answer.json) == {"error"}
    assert run(example).status("/nowhere") == 404


def test_it_runs_from_anywhere(tmp_path: Path) -> None:
    say = [sys.executable, str(ROOT / "examples/echo.py"), "--port", "seven"]
    done = subprocess.run(say, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("echo.py: argument --port: 'seven' is not a port number")
    assert done.stderr.count("\n") == 1


def test_stopping_says_goodbye() -> None:
    with running("echo", "itself") as server, server.connect("/echo") as socket:
        socket.send("still here?")
        assert socket.recv(10) == "still here?"
        assert server.stop() == 0
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


# Each of them.


def test_echo_sends_back_what_came(run: Run) -> None:
    with run("echo").connect("/echo") as socket:
        for message in ("", "Grüße, 世界", "x" * 65536, b"\0\xff"):
            socket.send(message)
            assert socket.recv(10) == message
    old = create_connection(f"{run('echo').ws}/echo", timeout=10)
    old.send("by the client of the seeds")
    assert old.recv() == "by the client of the seeds"
    old.close()


def test_echo_has_limits(run: Run) -> None:
    port = run("echo").port
    with RawSocket(port, "/echo") as socket:
        socket.send(frame(TEXT, b"x" * 65537))
        assert socket.close_code() == 1009
    with RawSocket(port, "/echo") as socket:
        socket.send(frame(TEXT, b"\xff"))
        assert socket.close_code() == 1007
    assert run("echo").status("/echo", Origin="https://elsewhere.test") == 403
    assert run("echo").http.get("/echo").status == 404


def test_json_echo_answers_json(run: Run) -> None:
    with run("json_echo").connect("/websocket") as socket:
        heard = "I have received this message from you: "
        for message, answer in (
            ('{"output": "hi"}', {"output": heard + '{"output": "hi"}'}),
            ("NaN", {"output": heard + "NaN"}),
            (b'"\xc3\xbc"', {"output": heard + '"ü"'}),
            ('"\\ud800"', {"output": heard + '"\ud800"'}),
            ("{", {"error": "that is not JSON"}),
            (b"\xff", {"error": "that is not JSON"}),
            ("[" * 65536, {"error": "that is not JSON"}),
            ("9" * 5000, {"error": "that is not JSON"}),
        ):
            socket.send(message)
            assert json.loads(socket.recv(10)) == answer, message
    assert run("json_echo").http.get("/websocket").status == 400


def test_json_echo_counts_how_they_leave(run: Run) -> None:
    server = run("json_echo")

    def count(code: str) -> int:
        return int(server.http.get("/goodbyes").json.get(code, 0))

    for code in ("1000", "1001", "4321", "1005", "none"):
        before = count(code)
        with RawSocket(server.port, "/websocket") as socket:
            assert socket.status == 101
            if code != "none":
                said = b"" if code == "1005" else int(code).to_bytes(2, "big")
                socket.send(frame(CLOSE, said))
                socket.close_code()
        eventually(lambda code=code, more=before + 1: count(code) == more)  # type: ignore[misc]


# Their pages, in Chromium, on one server.


@pytest.fixture(scope="module")
def own() -> Iterator[Run]:
    with ExitStack() as stack:
        yield Run("itself", stack)


def state(browser: Browser) -> str:
    return str(browser.find("[data-state]").get_attribute("data-state"))


def log(browser: Browser) -> list[str]:
    return str(browser.find("[data-log]").text).splitlines()


def visit(browser: Browser, server: Server, path: str = "/") -> None:
    browser.open(server.url + path)
    eventually(lambda: state(browser) == "live")


def say(browser: Browser, **fields: str) -> None:
    """Fill a form's fields, by their names, and send it with Enter."""
    for name, value in fields.items():
        field = browser.find(f"[name={name}]")
        field.clear()
        field.send_keys(value)
    field.send_keys("\n")


def pictures(browser: Browser, name: str) -> None:
    """Keep what it looks like: by day, by night, on a phone."""
    for suffix, width, scheme in (
        ("", 1000, "light"), ("-dark", 1000, "dark"), ("-phone", 390, "light")
    ):  # fmt: skip
        browser.look(width=width, height=700, scheme=scheme)
        browser.picture(f"example-{name}{suffix}")
    browser.look_as_before()


def test_echo_page(browser: Browser, own: Run) -> None:
    visit(browser, own("echo"))
    say(browser, message="<b>Grüße</b>")
    eventually(lambda: log(browser) == ["<b>Grüße</b>"])
    pictures(browser, "echo")


def test_page_comes_back_when_the_server_does(browser: Browser) -> None:
    with running("echo", "itself") as server:
        visit(browser, server)
        server.stop()
        eventually(lambda: state(browser) in ("retrying", "connecting"))
        say(browser, message="is anybody there?")
        assert "Not sent" in browser.find("[data-notice]").text
    with running("echo", "itself", "--port", str(server.port)):
        eventually(lambda: state(browser) == "live")
        say(browser, message="again")
        eventually(lambda: log(browser) == ["again"])


def test_json_echo_page_says_goodbye(browser: Browser, own: Run) -> None:
    server = own("json_echo")
    visit(browser, server)
    say(browser, message='{"a": 1}')
    say(browser, message="{")
    heard = ['I have received this message from you: {"a": 1}', "that is not JSON"]
    eventually(lambda: log(browser) == heard)
    before = server.http.get("/goodbyes").json.get("1000", 0)
    browser.get("about:blank")
    eventually(lambda: server.http.get("/goodbyes").json.get("1000") == before + 1)
    visit(browser, server)
    eventually(lambda: "with 1000" in browser.find("[data-goodbyes]").text)
    pictures(browser, "json_echo")
