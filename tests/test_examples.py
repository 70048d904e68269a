"""The examples: run by their own first lines, hosted by other servers, met by real clients."""

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
from pathlib import Path
from typing import Any

import pytest
from websocket import create_connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.browsing import Browser, violations
from tests.clients import CLOSE, TEXT, Http, RawSocket, frame
from tests.conftest import ROOT, Program, Server, eventually

#: Each way to host an example: the command, which the environment gives any free PORT. What runs
#: by itself in one of these ways does so, by its first line.
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
    """The way in which it runs by itself."""
    source = (ROOT / "examples" / f"{example}.py").read_text()
    return "threads" if "import on_threads" in source else "gevent"


class Example(Server):
    """A running example, ready for requests."""

    def __init__(self, example: str, host: str, *options: str, **environment: str) -> None:
        self.example, self.host = example, host
        line = HOSTS[host].format(example=example)
        if host == own_host(example):
            line = docstring(example).partition(":")[0]
        command = shlex.split(line)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PORT": "0", "PATH": path, "APP": f"examples.{example}:app", **environment}
        Program.__init__(self, *options, command=command, environment=environment)
        self.url = self._url()
        self.port = int(self.url.rpartition(":")[2])
        self.http = Http("127.0.0.1", self.port, tls=self.tls)

    def _url(self) -> str:
        def ready() -> re.Match[str] | None:
            # Where uWSGI prints it is standard error.
            return re.search(r"https?://[\d.]+:\d+", "".join(self.out + self.err))

        eventually(lambda: ready() or self.process.poll() is not None)
        found = ready()
        assert found, self.log
        return found[0]

    def opened(self, path: str, **options: Any) -> AbstractContextManager[ClientConnection]:
        """A strict client."""
        client: Any = connect(self.ws + path, **options)  # its types differ between releases
        opened: AbstractContextManager[ClientConnection] = client
        return opened

    def status(self, path: str, **changes: str | None) -> int:
        """What the server answers to a handshake, with these headers changed."""
        headers = {name.replace("_", "-"): value for name, value in changes.items()}
        with RawSocket(self.port, path, changes=headers) as socket:
            return socket.status

    def end(self) -> None:
        """It must stop by itself, cleanly, and without a traceback; it may have been told to."""
        status = self.wait()
        assert status == 0, (self.example, self.host, self.log)
        assert "Traceback" not in self.log, (self.example, self.host, self.log)


@contextmanager
def running(example: str, *options: str) -> Iterator[Example]:
    """Run an example by its first line, for one test."""
    server = Example(example, own_host(example), *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
        server.end()


class Run:
    """The examples on one host, each started when it is first asked for."""

    def __init__(self, host: str, servers: dict[tuple[str, str], Example]) -> None:
        self.host, self._servers = host, servers

    def __call__(self, example: str) -> Example:
        key = example, self.host
        if key not in self._servers:
            self._servers[key] = Example(*key, EXAMPLE_PASSWORD=PASSWORD)
        return self._servers[key]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[tuple[str, str], Example]]:
    """All that run, by example and host; all of them are told to stop at once."""
    servers: dict[tuple[str, str], Example] = {}
    yield servers
    for server in servers.values():
        server.process.terminate()
    for server in servers.values():
        server.end()


@pytest.fixture(scope="module", params=HOSTS)
def run(request: pytest.FixtureRequest, servers: dict[tuple[str, str], Example]) -> Run:
    return Run(str(request.param), servers)


PASSWORD = "open sesame, ü"


# What holds for all of them.


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_is_at_most_a_screen_and_says_what_it_revives(example: str) -> None:
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
def test_which_one_is_asked(host: str) -> None:
    say = [sys.executable, f"examples/on_{host}.py", "nothing"]
    done = subprocess.run(say, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"on_{host}.py: which one? {', '.join(EXAMPLES)}\n"


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
    assert done.stderr.startswith(
        "echo.py: Invalid value for '--port': 'seven' is not a port number"
    )
    assert done.stderr.count("\n") == 1


def test_stopping_says_goodbye(run: Run) -> None:
    server = Example("echo", run.host)
    with server.opened("/echo") as socket:
        socket.send("still here?")
        assert socket.recv(10) == "still here?"
        server.process.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    server.end()


# Each of them.


def test_echo_sends_back_what_came(run: Run) -> None:
    with run("echo").opened("/echo") as socket:
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
    with run("json_echo").opened("/websocket") as socket:
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


def test_blueprints_have_urls_with_variables(run: Run) -> None:
    server = run("blueprints")
    with server.opened("/repeat/3") as socket:
        socket.send("hi")
        assert [socket.recv(10) for _ in range(3)] == ["hi"] * 3
    with server.opened("/repeat/3/,%20") as socket:
        socket.send("hi")
        assert socket.recv(10) == "hi, hi, hi"
    assert b"/repeat/3<" in server.http.get("/repeat/3").body
    assert server.status("/repeat/3", Origin="https://elsewhere.test") == 403
    for path in ("/repeat/0", "/repeat/10", "/repeat/x", "/repeat/1/2/3", "/"):
        assert server.status(path) in (400, 404), path
    for path in ("/repeat/0", "/repeat/10", "/repeat/3/x"):
        assert server.http.get(path).status == 404, path


class Guest:
    """Somebody in a room of the chat."""

    def __init__(self, server: Example, room: str, name: str) -> None:
        # Without a limit: what nobody reads here must not make it slow.
        self._opened = server.opened(f"/chat/{room}?name={name}", max_queue=None)
        self.socket = self._opened.__enter__()
        self.welcome = self.hears()

    def hears(self) -> Any:
        return json.loads(self.socket.recv(10))

    def says(self, text: str) -> None:
        self.socket.send(text)

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.__exit__(None, None, None)


def test_chat_tells_everyone_in_the_room(run: Run) -> None:
    server = run("chat")
    with Guest(server, "blue", "Ann") as ann, Guest(server, "red", "Eve") as eve:
        assert ann.welcome == {"you": "Ann", "members": ["Ann"], "history": []}
        ann.says("first")
        assert ann.hears() == {"from": "Ann", "text": "first"}
        with Guest(server, "blue", "Ann") as other:
            assert ann.hears() == {"joined": "Ann 2"}
            history = [{"from": "Ann", "text": "first"}]
            assert other.welcome == {
                "you": "Ann 2",
                "members": ["Ann", "Ann 2"],
                "history": history,
            }
            other.says("<b>ü</b>")
            for guest in (ann, other):
                assert guest.hears() == {"from": "Ann 2", "text": "<b>ü</b>"}
        assert ann.hears() == {"left": "Ann 2"}
        assert b">red</a> (1)" in server.http.get("/chat/blue").body
        eve.says("alone")
        assert eve.hears() == {"from": "Eve", "text": "alone"}
    eventually(lambda: b">red</a>" not in server.http.get("/chat/blue").body)
    with Guest(server, "blue", "Bob") as bob:
        assert bob.welcome["history"] == [], "an empty room is forgotten"


def test_chat_tells_all_in_the_same_order(run: Run) -> None:
    with ExitStack() as stack:
        guests = [
            stack.enter_context(Guest(run("chat"), "busy", f"guest{number}")) for number in range(5)
        ]
        for number in range(20):
            for guest in guests:
                guest.says(str(number))
        heard = [[] for _ in guests]  # type: ignore[var-annotated]
        for guest, messages in zip(guests, heard, strict=True):
            while len(messages) < 100:
                if "text" in (message := guest.hears()):
                    messages.append(message)
    assert heard == [heard[0]] * 5
    for name in [f"guest{number}" for number in range(5)]:
        said = [message["text"] for message in heard[0] if message["from"] == name]
        assert said == [str(number) for number in range(20)]


def test_chat_drops_who_is_slow_and_nobody_else(run: Run) -> None:
    server = run("chat")
    with Guest(server, "flood", "Ann") as ann, RawSocket(
        server.port, "/chat/flood?name=Slow", receive_buffer=4096
    ) as slow:  # fmt: skip
        assert ann.hears() == {"joined": "Slow"}
        heard: list[Any] = []
        flood = "\U0001f30a" * 1000  # as many bytes as a text can have
        while {"left": "Slow", "dropped": True} not in heard:
            ann.says(flood)
            heard.append(ann.hears())
            assert len(heard) < 5000
        while heard[-1].get("text") != "is he gone?":
            ann.says("is he gone?")
            heard.append(ann.hears())
        assert b"Slow" not in server.http.get("/chat/flood").body
        slow.send(frame(TEXT, b"I am still here"))
        assert slow.close_code() == 1013
        ann.says("over")
        while heard[-1].get("text") != "over":
            heard.append(ann.hears())
        assert {"from": "Slow", "text": "I am still here"} not in heard


def test_chat_has_limits(run: Run) -> None:
    server = run("chat")
    for path, says in (
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
            assert json.loads(raw.body)["error"].startswith(f"{says}: not from 1 to 30")
    assert server.http.get("/chat/" + "x" * 31).status == 400
    assert server.status("/chat/blue?name=Ann", Origin="https://elsewhere.test") == 403
    with Guest(server, "blue", "Ann") as ann:
        ann.says("   ")
        ann.says("x" * 1001)
        assert ann.hears() == {"error": "not sent: more than 1000 characters"}
        ann.socket.send(b"bytes")
        with pytest.raises(ConnectionClosed) as closed:
            ann.hears()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003
    with RawSocket(server.port, "/chat/blue?name=Ann") as raw:
        raw.send(frame(TEXT, b"x" * 65537))
        assert raw.close_code() == 1009


def log_in(server: Example, name: str = "Ann", **headers: str) -> dict[str, str]:
    """Log in; return the cookie, as a header."""
    answer = server.http.post(
        "/login", {"name": name, "password": PASSWORD}, headers=JSON | headers
    )
    assert answer.status == 200, answer
    cookie = answer.headers["Set-Cookie"]
    assert "; HttpOnly;" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie, "this is http"
    return {"Cookie": cookie.partition(";")[0]}


Own = Callable[[str], Example]
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


def test_login_refuses_what_it_must(run: Run) -> None:
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
        answer = server.http.post("/login", value, headers=JSON)
        assert (answer.status, set(answer.json)) == (status, {"error"}), value
        assert "Set-Cookie" not in answer.headers
    assert server.http.post("/login", right).status == 415, "as a form of another site might say"
    assert server.http.get("/login").status == 405
    elsewhere = {"Origin": "https://elsewhere.test"}
    assert server.http.post("/login", right, headers=JSON | elsewhere).status == 403
    cookie = log_in(server)
    assert server.http.post("/logout", {}, headers=cookie | elsewhere).status == 403
    assert server.status("/whoami", **cookie, **elsewhere) == 403
    assert server.status("/whoami", **cookie, Origin=server.url) == 101
    assert server.status("/whoami", Cookie="session=eyJuYW1lIjoiQW5uIn0.forged") == 401


def longest_wait(server: Example, job: str) -> float:
    """How long an echo takes at most while the server works, as a part of that time."""
    with ThreadPoolExecutor() as pool, server.opened("/echo") as socket:
        working, waits = pool.submit(server.http.post, f"/jobs/{job}", {}), []
        while not working.done():
            began = time.monotonic()
            socket.send("still there?")
            assert socket.recv(15) == "still there?"
            waits.append(time.monotonic() - began)
        return max(waits) / float(working.result().json["seconds"])


@pytest.mark.parametrize("job", ["sleep", "query", "compute"])
def test_threads_go_on_where_greenlets_wait(job: str, run: Run) -> None:
    if "threads" in run.host or job == "sleep":
        # Where others want the processor, too, it may take some tries.
        assert any(longest_wait(run("threads"), job) < 0.5 for _ in range(5))
    else:
        assert longest_wait(run("threads"), job) > 0.5


def test_threads_refuses_other_work(run: Run) -> None:
    answer = run("threads").http.post("/jobs/nothing", {})
    assert answer.status == 404
    assert answer.json == {"error": "there is no work 'nothing', only sleep, query, compute"}
    assert run("threads").http.get("/jobs/sleep").status == 405


# Their pages, in Chromium, on one server.


@pytest.fixture
def own(servers: dict[tuple[str, str], Example]) -> Callable[[str], Example]:
    """An example as it runs by itself."""
    return lambda example: Run(own_host(example), servers)(example)


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


def pictures(browser: Browser, axe: str, name: str) -> None:
    """Keep what it looks like by day, by night, on a phone, where all must be accessible."""
    for suffix, width, scheme in (
        ("", 1000, "light"), ("-dark", 1000, "dark"), ("-phone", 390, "light")
    ):  # fmt: skip
        browser.look(width=width, height=700, scheme=scheme)
        browser.picture(f"example-{name}{suffix}")
        assert violations(browser, axe) == []
    browser.look_as_before()


def test_echo_page(browser: Browser, own: Own, axe: str) -> None:
    visit(browser, own("echo"))
    say(browser, message="<b>Grüße</b>")
    eventually(lambda: log(browser) == ["<b>Grüße</b>"])
    pictures(browser, axe, "echo")


def test_page_comes_back_when_the_server_does(browser: Browser) -> None:
    with running("echo") as server:
        visit(browser, server)
        server.stop()
        eventually(lambda: state(browser) in ("retrying", "connecting"))
        say(browser, message="is anybody there?")
        assert "Not sent" in browser.find("[data-notice]").text
    with running("echo", "--port", str(server.port)):
        eventually(lambda: state(browser) == "live")
        say(browser, message="again")
        eventually(lambda: log(browser) == ["again"])


def test_json_echo_page_says_goodbye(browser: Browser, own: Own, axe: str) -> None:
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
        bob.says("<img src=x onerror=alert(1)>")
        say(browser, text="hello, Bob")
        assert bob.hears()["text"] == "<img src=x onerror=alert(1)>"
        assert bob.hears() == {"from": "Ann", "text": "hello, Bob"}
        pictures(browser, axe, "chat")
        browser.find("[name=room]").send_keys("Räume & mehr\n")
        assert bob.hears() == {"left": "Ann"}
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
    tries = 0
    for job in ("sleep", "query", "compute"):
        # Where others want the processor, too, one try may not show it.
        while not any(line.startswith(job) and "no echo waited" in line for line in log(browser)):
            assert tries < 10
            tries += 1
            browser.find(f"[data-job={job}]").click()
            eventually(lambda tries=tries: len(log(browser)) == tries)  # type: ignore[misc]
    pictures(browser, axe, "threads")
