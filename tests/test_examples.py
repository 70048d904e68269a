"""The examples: run by their first lines and on other servers, used by real clients."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websocket import create_connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.browsing import Browser, violations
from tests.clients import (
    BINARY,
    CLOSE,
    HANG_TIMEOUT,
    TEXT,
    Closing,
    RawSocket,
    frame,
    open_websocket,
)
from tests.conftest import ROOT, Program, Server, eventually

#: By host, the command that runs an example; the environment has PORT. An example that is made for
#: the host is run by the command in its first line.
HOSTS = {
    "gevent": "python examples/on_gevent.py {example}",
    "threads": "python examples/on_threads.py {example}",
    "gunicorn": "gunicorn -c servers/gunicorn.conf.py examples.{example}:app",
    "uwsgi": "uwsgi servers/uwsgi.ini",
    "uwsgi-threads": "uwsgi servers/uwsgi-threads.ini",
}
EXAMPLES = sorted(
    path.stem
    for path in (ROOT / "examples").glob("[!o]*.py")
    if "Flask(__name__)" in path.read_text()
)


def docstring(example: str) -> str:
    source = (ROOT / "examples" / f"{example}.py").read_text()
    return str(ast.get_docstring(ast.parse(source)))


def own_host(example: str) -> str:
    """Return the host that the example is made for."""
    source = (ROOT / "examples" / f"{example}.py").read_text()
    return "threads" if "import on_threads" in source else "gevent"


class Example(Server):
    """A running example that responds to requests."""

    def __init__(self, example: str, host: str, *options: str, **environment: str) -> None:
        self.example, self.host = example, host
        line = HOSTS[host].format(example=example)
        if host == own_host(example):
            line = docstring(example).partition(":")[0]
        command = shlex.split(line)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PORT": "0", "PATH": path, "APP": f"examples.{example}:app", **environment}
        Program.__init__(self, *options, command=command, environment=environment)

        def url() -> re.Match[str] | None:
            # uWSGI prints it to standard error.
            return re.search(r"https?://[\d.]+:\d+", "".join(self.out + self.err))

        eventually(lambda: url() or self.process.poll() is not None)
        found = url()
        assert found, self.log
        self.is_at(found[0])

    def connect(self, path: str, **options: Any) -> AbstractContextManager[ClientConnection]:
        """Connect with a strict client."""
        return open_websocket(self.ws + path, **options)

    def status(self, path: str, **changes: str | None) -> int:
        """Return the status of a handshake with these headers changed."""
        headers = {name.replace("_", "-"): value for name, value in changes.items()}
        with RawSocket(self.port, path, changes=headers) as socket:
            return socket.status

    def check_end(self) -> None:
        """Fail unless it exits with status 0, and without a traceback."""
        status = self.wait()
        assert status == 0, (self.example, self.host, self.log)
        assert "Traceback" not in self.log, (self.example, self.host, self.log)


@contextmanager
def running(example: str, *options: str) -> Iterator[Example]:
    """Run an example by its first line."""
    server = Example(example, own_host(example), *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
        server.check_end()


class Run:
    """Examples on one host; each is started at its first use."""

    def __init__(self, host: str, servers: dict[tuple[str, str], Example]) -> None:
        self.host, self._servers = host, servers

    def __call__(self, example: str) -> Example:
        key = example, self.host
        if key not in self._servers:
            self._servers[key] = Example(*key, EXAMPLE_PASSWORD=PASSWORD)
        return self._servers[key]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[tuple[str, str], Example]]:
    """All running examples, by name and host; all are stopped at the same time."""
    servers: dict[tuple[str, str], Example] = {}
    yield servers
    for server in servers.values():
        server.process.terminate()
    for server in servers.values():
        server.check_end()


# gunicorn's worker shares its code with gevent's server: there one example is enough.
@pytest.fixture(scope="module", params=[host for host in HOSTS if host != "gunicorn"])
def run(request: pytest.FixtureRequest, servers: dict[tuple[str, str], Example]) -> Run:
    return Run(str(request.param), servers)


Own = Callable[[str], Example]


@pytest.fixture
def own(servers: dict[tuple[str, str], Example]) -> Own:
    """An example, on the host that it is made for."""
    return lambda example: Run(own_host(example), servers)(example)


PASSWORD = "open sesame, ü"


# All of them.


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_is_one_screen_and_says_what_changed(example: str) -> None:
    source = (ROOT / "examples" / f"{example}.py").read_text()
    assert source.startswith(f'"""python examples/{example}.py: ')
    assert "\n\nWhat changed: " in docstring(example)
    assert len(source.splitlines()) <= 68
    assert f"examples/{example}.py" in (ROOT / "docs/reference/examples.rst").read_text()


def test_importing_them_patches_nothing() -> None:
    modules = ", ".join(f"examples.{example}" for example in EXAMPLES)
    say = f"import time, socket, {modules}; print(time.sleep, socket.socket.__module__)"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout == "<built-in function sleep> socket\n"
    assert re.fullmatch(r"The password is \w+; EXAMPLE_PASSWORD sets another.\n", done.stderr)


@pytest.mark.parametrize("host", ["gevent", "threads"])
def test_the_ready_line_names_the_example(
    host: str, servers: dict[tuple[str, str], Example]
) -> None:
    for example in EXAMPLES:
        ready = f"Pushlab example `{example}` is at http://127.0.0.1:"
        assert Run(host, servers)(example).out[0].startswith(ready)


@pytest.mark.parametrize("host", ["gevent", "threads"])
def test_an_unknown_example_is_one_line(host: str) -> None:
    say = [sys.executable, f"examples/on_{host}.py", "nothing"]
    done = subprocess.run(say, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"on_{host}.py: which example? {', '.join(EXAMPLES)}\n"


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_policy_of_its_page_is_strict(example: str, own: Own) -> None:
    page = own(example).http.get("/")
    if page.status == 302:
        page = own(example).http.get(page.headers["Location"])
    assert page.status == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert b"://" not in page.body, "from another server"


@pytest.mark.parametrize("example", EXAMPLES)
def test_errors_are_json(example: str, own: Own) -> None:
    http = own(example).http
    for response, status in (
        (http.get("/nowhere"), 404),
        (http.post("/nowhere", {}), 404),
        (http.request("DELETE", "/static/style.css"), 405),
    ):
        assert response.status == status
        assert set(response.json) == {"error"}
    assert own(example).status("/nowhere") == 404


def test_it_runs_from_any_folder(tmp_path: Path) -> None:
    say = [sys.executable, str(ROOT / "examples/echo.py"), "--port", "seven"]
    done = subprocess.run(say, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "echo.py: Invalid value for '--port': 'seven' is not a port number"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", HOSTS)
def test_a_stopping_server_closes_with_1001(host: str) -> None:
    server = Example("echo", host)
    with server.connect("/echo") as socket:
        socket.send("still here?")
        assert socket.recv(HANG_TIMEOUT) == "still here?"
        server.process.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(HANG_TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    server.check_end()


# Each of them.


def test_echo(run: Run) -> None:
    with run("echo").connect("/echo") as socket:
        for message in ("", "Grüße, 世界", "x" * 65536, b"\0\xff"):
            socket.send(message)
            assert socket.recv(HANG_TIMEOUT) == message
    old = create_connection(f"{run('echo').ws}/echo", timeout=HANG_TIMEOUT)
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
    assert run("echo").status("/echo", Origin="https://other.test") == 403
    assert run("echo").http.get("/echo").status == 404


#: What is sent to json_echo, and the error in its reply; None: the message itself.
JSON_ECHO: list[tuple[str | bytes, str | None]] = [
    ('{"output": "hi"}', None), ('"\\ud800"', None), ("1e308", None), ("1e-999", None),
    ("9" * 4300, None), ('{"a": {"a": 1}}', None), ('["NaN", "1e999"]', None),
    (b'"\xc3\xbc"', None), ("  [ ]\n", None),
    ("NaN", "that is not JSON: NaN is no number there"),
    ("[-Infinity]", "that is not JSON: -Infinity is no number there"),
    ('{"a": Infinity}', "that is not JSON: Infinity is no number there"),
    ('{"a":1e999}', "that is a number too large to be kept: 1e999"),
    ("-1E+999", "that is a number too large to be kept: -1E+999"),
    ("1" * 400 + ".0", f"that is a number too large to be kept: {'1' * 40}…"),
    ("9" * 5000, f"that is a number of 5000 characters: {'9' * 40}…"),
    ('[{"a": -' + "9" * 4301 + "}]", f"that is a number of 4302 characters: -{'9' * 39}…"),
    ("[" * 65536, "that is nested too deeply"),
    ('{"a":' * 10000, "that is nested too deeply"),
    ("", "that is not JSON: Expecting value: line 1 column 1 (char 0)"),
    ("{", "that is not JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
    ("01", "that is not JSON: Extra data: line 1 column 2"),
    ("\ufeff1", "that is not JSON: Unexpected UTF-8 BOM"),
    ("nan", "that is not JSON: Expecting value: line 1 column 1"),
    (b"\xff", "that is not JSON, as it is not text: invalid start byte"),
    (b"\xff\x00", "that is not JSON: Expecting value: line 1 column 1"),
]  # fmt: skip


def test_json_echo_replies_with_json(run: Run) -> None:
    with run("json_echo").connect("/websocket") as socket:
        for message, error in JSON_ECHO:
            socket.send(message)
            reply = json.loads(socket.recv(10))
            if error is None:
                received = json.dumps(json.loads(message), ensure_ascii=False)
                assert reply == {"output": f"I have received this message from you: {received}"}
            else:
                assert reply["error"].startswith(error), message
    assert run("json_echo").http.get("/websocket").status == 400


#: What is sent as a binary message, and what comes back; a number is a close code.
BINARY_MESSAGES: list[tuple[str, str, bytes, list[bytes] | int]] = [
    ("echo", "/echo", b"\xff\x00", [b"\xff\x00"]),
    ("threads", "/echo", b"\xff\x00", [b"\xff\x00"]),
    ("blueprints", "/repeat/2", b"\xff\x00", [b"\xff\x00"] * 2),
    ("blueprints", "/repeat/2/-", b"\xff\x00", [b"\xff\x00-\xff\x00"]),
    ("blueprints", "/repeat/2/%C3%BC", b"ab", [b"ab\xc3\xbcab"]),
    ("blueprints", "/repeat/2/-", b"", [b"-"]),
    ("chat", "/chat/blue?name=Ann", b"\xff\x00", 1003),
    ("login", "/whoami", b"\xff\x00", 1003),
    ("login", "/whoami", b"text", 1003),
]


@pytest.mark.parametrize(("example", "path", "message", "reply"), BINARY_MESSAGES)
def test_binary_messages(
    run: Run, example: str, path: str, message: bytes, reply: list[bytes] | int
) -> None:
    server = run(example)
    changes = log_in(server) if example == "login" else {}
    with RawSocket(server.port, path, changes=changes) as socket:
        socket.send(frame(BINARY, message))
        if isinstance(reply, int):
            assert socket.close_code() == reply
        else:
            assert [socket.frame() for _ in reply] == [(BINARY, each) for each in reply]


def test_json_echo_counts_close_codes(run: Run) -> None:
    server = run("json_echo")

    def count(code: str) -> int:
        return int(server.http.get("/close-codes").json.get(code, 0))

    for code in ("1000", "1001", "4321", "1005", "none"):
        before = count(code)
        with RawSocket(server.port, "/websocket") as socket:
            assert socket.status == 101
            if code != "none":
                payload = b"" if code == "1005" else int(code).to_bytes(2, "big")
                socket.send(frame(CLOSE, payload))
                socket.close_code()
        eventually(lambda code=code, more=before + 1: count(code) == more)  # type: ignore[misc]


def test_blueprints_have_urls_with_variables(run: Run) -> None:
    server = run("blueprints")
    with server.connect("/repeat/3") as socket:
        socket.send("hi")
        assert [socket.recv(HANG_TIMEOUT) for _ in range(3)] == ["hi"] * 3
    with server.connect("/repeat/3/,%20") as socket:
        socket.send("hi")
        assert socket.recv(HANG_TIMEOUT) == "hi, hi, hi"
    assert b"/repeat/3<" in server.http.get("/repeat/3").body
    assert server.status("/repeat/3", Origin="https://other.test") == 403
    for path in ("/repeat/0", "/repeat/10", "/repeat/x", "/repeat/1/2/3", "/"):
        assert server.status(path) in (400, 404), path
    for path in ("/repeat/0", "/repeat/10", "/repeat/3/x"):
        assert server.http.get(path).status == 404, path


class Guest(Closing):
    """A member of a room of the chat."""

    def __init__(self, server: Example, room: str, name: str) -> None:
        self._opened = server.connect(f"/chat/{room}?name={name}")
        self.socket = self._opened.__enter__()
        self.welcome = self.receive()

    def receive(self) -> Any:
        return json.loads(self.socket.recv(HANG_TIMEOUT))

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


def test_a_chat_message_reaches_all_members_of_the_room(run: Run) -> None:
    server = run("chat")
    with Guest(server, "blue", "Ann") as ann, Guest(server, "red", "Eve") as eve:
        assert ann.welcome == {"you": "Ann", "members": ["Ann"], "history": []}
        ann.socket.send("first")
        assert ann.receive() == {"from": "Ann", "text": "first"}
        with Guest(server, "blue", "Ann") as other:
            assert ann.receive() == {"joined": "Ann 2"}
            history = [{"from": "Ann", "text": "first"}]
            assert other.welcome == {
                "you": "Ann 2",
                "members": ["Ann", "Ann 2"],
                "history": history,
            }
            other.socket.send("<b>ü</b>")
            for guest in (ann, other):
                assert guest.receive() == {"from": "Ann 2", "text": "<b>ü</b>"}
        assert ann.receive() == {"left": "Ann 2"}
        assert b">red</a> (1)" in server.http.get("/chat/blue").body
        eve.socket.send("alone")
        assert eve.receive() == {"from": "Eve", "text": "alone"}
    eventually(lambda: b">red</a>" not in server.http.get("/chat/blue").body)
    with Guest(server, "blue", "Bob") as bob:
        assert bob.welcome["history"] == [], "an empty room is forgotten"


def test_chat_messages_come_in_one_order(run: Run) -> None:
    with ExitStack() as stack:
        guests = [
            stack.enter_context(Guest(run("chat"), "busy", f"guest{number}")) for number in range(5)
        ]
        for number in range(20):
            for guest in guests:
                guest.socket.send(str(number))
        received: list[list[Any]] = [[] for _ in guests]
        for guest, messages in zip(guests, received, strict=True):
            while len(messages) < 100:
                if "text" in (message := guest.receive()):
                    messages.append(message)
    assert received == [received[0]] * 5
    for name in [f"guest{number}" for number in range(5)]:
        texts = [message["text"] for message in received[0] if message["from"] == name]
        assert texts == [str(number) for number in range(20)]


def test_chat_drops_a_slow_member_and_no_other(run: Run) -> None:
    server = run("chat")
    with Guest(server, "flood", "Ann") as ann, RawSocket(
        server.port, "/chat/flood?name=Slow", receive_buffer=4096
    ) as slow:  # fmt: skip
        assert ann.receive() == {"joined": "Slow"}
        received: list[Any] = []
        flood = "\U0001f30a" * 1000  # as many bytes as a text can have
        while {"left": "Slow", "dropped": True} not in received:
            ann.socket.send(flood)
            received.append(ann.receive())
            assert len(received) < 5000
        while received[-1].get("text") != "is it gone?":
            ann.socket.send("is it gone?")
            received.append(ann.receive())
        assert b"Slow" not in server.http.get("/chat/flood").body
        slow.send(frame(TEXT, b"I am still here"))
        assert slow.close_code() == 1013
        ann.socket.send("over")
        while received[-1].get("text") != "over":
            received.append(ann.receive())
        assert {"from": "Slow", "text": "I am still here"} not in received


def test_chat_has_limits(run: Run) -> None:
    server = run("chat")
    for path, parameter in (
        ("/chat/blue", "name"),
        ("/chat/blue?name=", "name"),
        ("/chat/blue?name=%20Ann", "name"),
        ("/chat/blue?name=a%0Ab", "name"),
        ("/chat/blue?name=" + "x" * 31, "name"),
        ("/chat/" + "x" * 31 + "?name=Ann", "room"),
        ("/chat/%00?name=Ann", "room"),
    ):
        with RawSocket(server.port, path) as raw:
            assert raw.status == 400, path
            assert json.loads(raw.body)["error"].startswith(f"{parameter}: not from 1 to 30")
    assert server.http.get("/chat/" + "x" * 31).status == 400
    assert server.status("/chat/blue?name=Ann", Origin="https://other.test") == 403
    with Guest(server, "blue", "Ann") as ann:
        ann.socket.send("   ")
        ann.socket.send("x" * 1001)
        assert ann.receive() == {"error": "not sent: more than 1000 characters"}
        ann.socket.send(b"bytes")
        with pytest.raises(ConnectionClosed) as closed:
            ann.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003
    with RawSocket(server.port, "/chat/blue?name=Ann") as raw:
        raw.send(frame(TEXT, b"x" * 65537))
        assert raw.close_code() == 1009


def log_in(server: Example, name: str = "Ann", **headers: str) -> dict[str, str]:
    """Log in; return the cookie, as a header."""
    response = server.http.post(
        "/login", {"name": name, "password": PASSWORD}, headers=JSON | headers
    )
    assert response.status == 200, response
    cookie = response.headers["Set-Cookie"]
    assert "; HttpOnly;" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie, "this is http"
    return {"Cookie": cookie.partition(";")[0]}


JSON = {"Content-Type": "application/json"}


def test_login_opens_the_socket_and_logout_closes_it(run: Run) -> None:
    server = run("login")
    assert server.status("/whoami") == 401
    cookie, other = log_in(server), log_in(server, "Bob")
    with ExitStack() as stack:
        tabs = [stack.enter_context(RawSocket(server.port, "/whoami", changes=cookie))
                for _ in range(2)]  # fmt: skip
        bob = stack.enter_context(RawSocket(server.port, "/whoami", changes=other))
        assert [socket.json() for socket in tabs] == [{"you": "Ann"}] * 2
        tabs[0].send(frame(TEXT, b"hi"))
        assert tabs[0].json() == {"from": "Ann", "text": "hi"}
        assert server.http.post("/logout", {}, headers=cookie).status == 200
        assert [socket.close_code() for socket in tabs] == [4401] * 2
        bob.send(frame(TEXT, b"still here"))
        assert bob.json() == {"you": "Bob"}
        assert bob.json() == {"from": "Bob", "text": "still here"}
    assert server.status("/whoami", **cookie) == 401, "a copy of the cookie is of no use"
    assert b'data-name=""' in server.http.get("/", headers=cookie).body
    assert b'data-name="Bob"' in server.http.get("/", headers=other).body


def test_login_again_ends_the_login_before(run: Run) -> None:
    server = run("login")
    cookie = log_in(server)
    with RawSocket(server.port, "/whoami", changes=cookie) as socket:
        assert socket.json() == {"you": "Ann"}
        again = log_in(server, "Ann", **cookie)
        assert socket.close_code() == 4401
    assert server.status("/whoami", **again) == 101


def test_login_rejects_bad_requests(run: Run) -> None:
    server = run("login")
    right = {"name": "Ann", "password": PASSWORD}
    for value, status in (
        (right | {"password": "wrong"}, 401),
        (right | {"password": ""}, 401),
        (right | {"password": "\ud800"}, 401),
        (right | {"password": 7}, 400),
        (right | {"name": "  "}, 400),
        (right | {"name": "\ud800"}, 400),
        (right | {"name": "x" * 31}, 400),
        ({"name": "Ann"}, 400),
        ([], 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 10_000, 400),
        (b" " * 20_000, 413),
    ):
        response = server.http.post("/login", value, headers=JSON)
        assert (response.status, set(response.json)) == (status, {"error"}), value
        assert "Set-Cookie" not in response.headers
    assert server.http.post("/login", right).status == 415, "a form of another site could be so"
    assert server.http.get("/login").status == 405
    other_site = {"Origin": "https://other.test"}
    assert server.http.post("/login", right, headers=JSON | other_site).status == 403
    cookie = log_in(server)
    assert server.http.post("/logout", {}, headers=cookie | other_site).status == 403
    assert server.status("/whoami", **cookie, **other_site) == 403
    assert server.status("/whoami", **cookie, Origin=server.url) == 101
    assert server.status("/whoami", Cookie="session=eyJuYW1lIjoiQW5uIn0.forged") == 401


def longest_wait(server: Example, job: str) -> float:
    """Return the longest echo during a job, as a fraction of the job's time."""
    with ThreadPoolExecutor() as pool, server.connect("/echo") as socket:
        working, waits = pool.submit(server.http.post, f"/jobs/{job}", {}), [0.0]
        while not working.done():
            began = time.monotonic()
            socket.send("still there?")
            assert socket.recv(HANG_TIMEOUT) == "still there?"
            waits.append(time.monotonic() - began)
        return max(waits) / float(working.result().json["seconds"])


@pytest.mark.parametrize("job", ["sleep", "query", "compute"])
def test_the_echo_continues_during_a_job_but_on_gevent(job: str, run: Run) -> None:
    if "threads" in run.host or job == "sleep":
        # On a busy machine it may take some tries.
        eventually(lambda: longest_wait(run("threads"), job) < 0.5)
    else:
        eventually(lambda: longest_wait(run("threads"), job) > 0.5)


def test_threads_rejects_an_unknown_job(run: Run) -> None:
    response = run("threads").http.post("/jobs/nothing", {})
    assert response.status == 404
    assert response.json == {"error": "there is no job 'nothing', only sleep, query, compute"}
    assert run("threads").http.get("/jobs/sleep").status == 405


# Their pages, in Chromium, on one server.


def state(browser: Browser) -> str:
    return str(browser.find("[data-state]").get_attribute("data-state"))


def log(browser: Browser) -> list[str]:
    return str(browser.find("[data-log]").text).splitlines()


def visit(browser: Browser, server: Server, path: str = "/") -> None:
    browser.open(server.url + path)
    eventually(lambda: state(browser) == "live")


def say(browser: Browser, **fields: str) -> None:
    """Fill in a form's fields by name, and submit with Enter."""
    for name, value in fields.items():
        field = browser.find(f"[name={name}]")
        field.clear()
        field.send_keys(value)
    field.send_keys("\n")


def pictures(browser: Browser, axe: str, name: str) -> None:
    """Keep screenshots: light, and dark on a phone; each must be accessible."""
    for suffix, width, scheme in (("", 1000, "light"), ("-phone", 390, "dark")):
        browser.look(width=width, height=700, scheme=scheme)
        browser.picture(f"example-{name}{suffix}")
        assert violations(browser, axe) == []
    browser.look_as_before()


def test_echo_page(browser: Browser, own: Own, axe: str) -> None:
    visit(browser, own("echo"))
    say(browser, message="<b>Grüße</b>")
    eventually(lambda: log(browser) == ["<b>Grüße</b>"])
    pictures(browser, axe, "echo")


def test_page_reconnects_when_the_server_is_back(browser: Browser) -> None:
    with running("echo") as server:
        visit(browser, server)
        server.stop()
        eventually(lambda: state(browser) in ("retrying", "connecting"))
        say(browser, message="still there?")
        assert "Not sent" in browser.find("[data-notice]").text
    with running("echo", "--port", str(server.port)):
        eventually(lambda: state(browser) == "live")
        say(browser, message="again")
        eventually(lambda: log(browser) == ["again"])


def test_json_echo_page_closes_with_1000(browser: Browser, own: Own, axe: str) -> None:
    server = own("json_echo")
    visit(browser, server)
    say(browser, message='{"a": 1}')
    say(browser, message="{")
    eventually(lambda: len(log(browser)) == 2)
    shown = log(browser)
    assert shown[0] == 'I have received this message from you: {"a": 1}'
    assert shown[1].startswith("that is not JSON: Expecting property name")
    before = server.http.get("/close-codes").json.get("1000", 0)
    browser.get("about:blank")
    eventually(lambda: server.http.get("/close-codes").json.get("1000") == before + 1)
    visit(browser, server)
    eventually(lambda: "with 1000" in browser.find("[data-close-codes]").text)
    pictures(browser, axe, "json_echo")


def test_blueprints_page(browser: Browser, own: Own, axe: str) -> None:
    visit(browser, own("blueprints"))
    browser.find("nav a:nth-child(3)").click()
    eventually(lambda: browser.current_url.endswith("/repeat/3") and state(browser) == "live")
    say(browser, message="hi")
    eventually(lambda: log(browser) == ["hi"] * 3)
    pictures(browser, axe, "blueprints")


def test_chat_page(browser: Browser, own: Own, axe: str) -> None:
    server = own("chat")
    browser.open(server.url)
    say(browser, name="Ann")
    eventually(lambda: log(browser) == ["You are here as Ann."])
    with Guest(server, "lobby", "Bob") as bob:
        eventually(lambda: browser.find("[data-members]").text == "Ann, Bob")
        bob.socket.send("<img src=x onerror=alert(1)>")
        say(browser, text="hello, Bob")
        assert bob.receive()["text"] == "<img src=x onerror=alert(1)>"
        assert bob.receive() == {"from": "Ann", "text": "hello, Bob"}
        pictures(browser, axe, "chat")
        browser.find("[name=room]").send_keys("Räume & mehr\n")
        assert bob.receive() == {"left": "Ann"}
    eventually(lambda: browser.title.startswith("Chat: Räume & mehr"))
    browser.find("[data-enter] button").click()  # the name is still there
    eventually(lambda: log(browser) == ["You are here as Ann."])


def test_login_page(browser: Browser, own: Own, axe: str) -> None:
    server = own("login")
    browser.open(server.url)
    say(browser, name="Ann", password="wrong")
    eventually(lambda: browser.find("[data-notice]").text == "that is not the password")
    pictures(browser, axe, "login")
    say(browser, name="Ann", password=PASSWORD)
    eventually(lambda: browser.find("[data-you]").text == "Ann")
    assert browser.execute_script("return document.cookie") == "", "no script can see it"
    say(browser, message="hi")
    eventually(lambda: log(browser) == ["Ann: hi"])
    pictures(browser, axe, "login-inside")
    browser.refresh()
    eventually(lambda: browser.find("[data-you]").text == "Ann")
    browser.find("[data-logout]").click()
    eventually(lambda: browser.find("[data-notice]").text == "You are logged out.")
    assert browser.find("#name").is_displayed()


def test_threads_page(browser: Browser, own: Own, axe: str) -> None:
    visit(browser, own("threads"))

    def no_echo_waits(job: str) -> bool:
        """Whether none waits during this job; on a busy machine one may."""
        before = len(log(browser))
        browser.find(f"[data-job={job}]").click()
        eventually(lambda: len(log(browser)) > before)
        return log(browser)[before].startswith(job) and "no echo waited" in log(browser)[before]

    for job in ("sleep", "query", "compute"):
        eventually(partial(no_echo_waits, job))
    pictures(browser, axe, "threads")
