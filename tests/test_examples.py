"""The examples: run by their own first lines, hosted by other servers, met by real clients."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
    "gevent": "python examples/on_gevent.py {example}",
    "threads": "python examples/on_threads.py {example}",
    "gunicorn": "gunicorn -c servers/gunicorn.conf.py examples.{example}:app",
    "uwsgi": "uwsgi servers/uwsgi.ini",
    "itself": "{first_line}",
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
        client: AbstractContextManager[ClientConnection] = connect(self.ws + path, **options)
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


@pytest.fixture(scope="module", params=[host for host in HOSTS if host != "itself"])
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
    assert len(source.splitlines()) <= 67
    assert f"examples/{example}.py" in (ROOT / "README.rst").read_text()


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_runs_by_its_first_line(example: str) -> None:
    with running(example, "itself") as server:
        assert server.out[0].startswith(f"Pushlab example `{example}` is at http://127.0.0.1:")
        assert server.http.get("/static/style.css").status == 200
        assert ("The password is" in server.log) == (example == "login")


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
    with running("echo", "itself") as server, server.opened("/echo") as socket:
        socket.send("still here?")
        assert socket.recv(10) == "still here?"
        assert server.stop() == 0
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


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


@pytest.mark.parametrize("job", ["sleep", "query", "compute"])
def test_threads_go_on_where_greenlets_wait(job: str, run: Run) -> None:
    server, waits = run("threads"), []
    with ThreadPoolExecutor() as pool, server.opened("/echo") as socket:
        working = pool.submit(server.http.post, f"/work/{job}", {})
        while not working.done():
            began = time.monotonic()
            socket.send("still there?")
            assert socket.recv(15) == "still there?"
            waits.append(time.monotonic() - began)
        seconds = working.result().json["seconds"]
    goes_on = run.host == "threads" or job == "sleep"
    assert (max(waits) < seconds / 2) == goes_on, (max(waits), seconds)


def test_threads_refuses_other_work(run: Run) -> None:
    answer = run("threads").http.post("/work/nothing", {})
    assert answer.status == 404
    assert answer.json == {"error": "there is no work 'nothing', only sleep, query, compute"}
    assert run("threads").http.get("/work/sleep").status == 405


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


def test_blueprints_page(browser: Browser, own: Run) -> None:
    visit(browser, own("blueprints"))
    browser.find("nav a:nth-child(3)").click()
    eventually(lambda: browser.current_url.endswith("/repeat/3") and state(browser) == "live")
    say(browser, message="hi")
    eventually(lambda: log(browser) == ["hi"] * 3)
    pictures(browser, "blueprints")


def test_chat_page(browser: Browser, own: Run) -> None:
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
        pictures(browser, "chat")
        browser.find("[name=room]").send_keys("Räume & mehr\n")
        assert bob.hears() == {"left": "Ann"}
    eventually(lambda: browser.title.startswith("Chat: Räume & mehr"))
    browser.find("[data-enter] button").click()  # the name is still there
    eventually(lambda: log(browser) == ["You are here as Ann."])


def test_login_page(browser: Browser, own: Run) -> None:
    server = own("login")
    browser.open(server.url)
    say(browser, name="Ann", password="wrong")
    eventually(lambda: browser.find("[data-notice]").text == "that is not the password")
    pictures(browser, "login")
    say(browser, name="Ann", password=PASSWORD)
    eventually(lambda: browser.find("[data-you]").text == "Ann")
    assert browser.execute_script("return document.cookie") == "", "no script can see it"
    say(browser, message="hi")
    eventually(lambda: log(browser) == ["Ann: hi"])
    pictures(browser, "login-inside")
    browser.refresh()
    eventually(lambda: browser.find("[data-you]").text == "Ann")
    browser.find("[data-logout]").click()
    eventually(lambda: browser.find("[data-notice]").text == "You are logged out.")
    assert browser.find("#name").is_displayed()


def test_threads_page(browser: Browser, own: Run) -> None:
    visit(browser, own("threads"))
    for number, job in enumerate(("sleep", "query", "compute"), 1):
        browser.find(f"[data-job={job}]").click()
        eventually(lambda number=number: len(log(browser)) == number)  # type: ignore[misc]
        assert log(browser)[-1].startswith(f"{job}: ")
        assert log(browser)[-1].endswith(": nobody waited")
    pictures(browser, "threads")
