"""Each question of docs/faq.rst: its failure, and its fix."""

import ast
import re
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask import Flask, request

from bench.servers import free_port, nginx
from pushlab import limits
from tests.browsing import Browser
from tests.clients import (
    HANG_TIMEOUT,
    TEXT,
    UPGRADE,
    close_frame,
    frame,
    open_websocket,
    read_all,
)
from tests.conftest import ROOT, Program, Server, eventually, until_same
from tests.hosting import Hosted
from tests.relay import Relay
from tests.test_own_app import WORKER, OwnApp, running
from tests.test_push_page import FOLLOW, App

DOCS = ROOT / "docs"
#: The question with a program.
ONCE = "18. Why does Ctrl-C hang, and my background task run twice?"
#: What other programs say.
OF_OTHERS = (
    "WebSocket connection to 'ws", "KeyError: ", "werkzeug.routing.", "502 Bad Gateway",
    "QueuePool limit ", "geventwebsocket.exceptions.", "BrokenPipeError: ",
)  # fmt: skip


def sections(page: str) -> dict[str, str]:
    """Return the text of a page's sections, by title."""
    text = (DOCS / page).read_text()
    [_, *found] = re.split(r"^(.+)\n-+\n", text, flags=re.M)
    return dict(zip(found[::2], found[1::2], strict=True))


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks in this language."""
    found = re.findall(rf"^\.\. code:: {language}\n\n((?: {{3}}.*\n|\n)+)", text, re.M)
    return [textwrap.dedent(block).strip() for block in found]


def test_every_section_names_its_tests() -> None:
    """They are there; a question has one for the failure and one for the fix, which may be one."""
    questions, symptoms = sections("faq.rst"), sections("troubleshooting.rst")
    assert [title.partition(". ")[0] for title in questions] == [str(n + 1) for n in range(25)]
    for title, text in {**questions, **symptoms}.items():
        names = re.findall(r"\btest_\w+\.test_\w+", text)
        assert names or title == "Nothing helps", title
        if title in questions:
            assert re.findall(r"^:(.*?):", text, re.M) == ["Asked in", "Cause", "Fix", "Tests"]
            assert "https://github.com/" in text
            assert len(names) == 2 or "failure and fix" in text
        for module, _, name in (each.partition(".") for each in names):
            source = (ROOT / "tests" / f"{module}.py").read_text()
            assert f"\ndef {name}(" in source, (module, name)
    assert blocks(questions[ONCE], "python") == [WHERE_IT_SERVES.strip()]


def sentences() -> Iterator[str]:
    """Yield the texts of the library, as patterns."""
    for path in (ROOT / "pushlab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value for part in parts if isinstance(part, ast.Constant)]
            if sum(len(text) for text in texts if isinstance(text, str)) > 10:
                yield "".join(
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
                    for part in parts
                )


def test_our_sentences_are_shown_as_they_are() -> None:
    known = re.compile("|".join(f"(?:{sentence})" for sentence in sentences()))
    shown = chain(*(blocks(text, "text") for text in sections("troubleshooting.rst").values()))
    for sentence in chain(*(each.replace("\n  ", " ").splitlines() for each in shown)):
        assert known.fullmatch(sentence) or sentence.startswith(OF_OTHERS), sentence


# The naive app on gevent-websocket.


class Naive(Server):
    """tests/naive.py on gevent-websocket's server."""

    def __init__(self) -> None:
        self.port = free_port()
        Program.__init__(self, "tests/naive.py", str(self.port))
        self.is_at(f"http://127.0.0.1:{self.port}")
        eventually(lambda: self.responds("/"))

    @property
    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/").json
        return found

    def until_closed(self, port: int) -> None:
        """Wait until its system knows that the client at this port has closed."""
        process = psutil.Process(self.process.pid)

        def open_ports() -> set[int]:
            connections = [each for each in process.net_connections() if each.raddr]
            return {each.raddr.port for each in connections if each.status == "ESTABLISHED"}

        eventually(lambda: port not in open_ports())


@pytest.fixture(scope="module")
def naive() -> Iterator[Naive]:
    server = Naive()
    yield server
    server.process.kill()
    server.wait()


def test_flask_sockets_is_a_mismatch(naive: Naive) -> None:
    """The 101 is out by then; the close frame has no code."""
    with naive.websocket("/flask-sockets") as browser:
        assert (browser.status, browser.close_code()) == (101, None)
    eventually(lambda: "werkzeug.routing.exceptions.WebsocketMismatch: 400" in naive.log)
    assert naive.http.get("/flask-sockets").status == 404


def test_closed_is_never_true(naive: Naive) -> None:
    with naive.websocket("/look") as browser:
        port = browser.socket.getsockname()[1]
        eventually(lambda: naive.seen["looks"])
    naive.until_closed(port)
    since = naive.seen["looks"]
    eventually(lambda: naive.seen["looks"] > since + 2)


def test_requests_go_on_without_their_browsers(naive: Naive) -> None:
    """Each with its descriptor; `finally` runs when the data changes."""
    with naive.send_get("/poll") as poll, naive.send_get("/stream") as stream:
        received = b""
        while b"data: 1" not in received:
            received += stream.recv(4096)
        eventually(lambda: naive.seen["polls"] == naive.seen["streams"] == 1)
        ports = [each.getsockname()[1] for each in (poll, stream)]
    for port in ports:
        naive.until_closed(port)
    assert (naive.seen["polls"], naive.seen["streams"]) == (1, 1)
    naive.until_idle()
    held = naive.descriptors
    naive.http.post("/change", {})
    eventually(lambda: naive.seen["polls"] == naive.seen["streams"] == 0)
    eventually(lambda: naive.descriptors <= held - 2)


def test_any_page_may_open_a_socket(naive: Naive) -> None:
    with naive.websocket("/echo", changes={"Origin": "https://evil.example"}) as page:
        page.send(frame(TEXT, b"with the user's cookies"))
        assert page.frame() == (TEXT, b"with the user's cookies")


def test_a_socket_does_not_save_the_session(naive: Naive) -> None:
    with naive.websocket("/log-in") as browser:
        assert browser.frame() == (TEXT, b"Hello, ann")
        assert "Set-Cookie" not in browser.headers
    assert naive.seen["user"] is None


def test_two_libraries_send_two_responses(naive: Naive) -> None:
    """The second one comes where frames should."""
    with naive.websocket("/flask-sock") as browser:
        assert browser.status == 101
        browser.send(frame(TEXT, b"x"))
        browser.send(close_frame(1000))
        assert browser._reader.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"


def test_each_close_is_a_traceback(naive: Naive) -> None:
    number = 3
    for _ in range(number):
        with naive.websocket("/echo") as browser:
            browser.send(close_frame(1000))
            assert browser.close_code() is None
    eventually(lambda: naive.log.count("WebSocketError: Socket is dead") >= number)


# On gunicorn and behind nginx.

#: Seconds after which nginx and gunicorn end what waits; by default 60 and 30.
LIMIT = 9

PUSHING = """
import threading
from flask import Flask
from pushlab import Push

app = Flask(__name__)
app.config["PUSHLAB_PING_INTERVAL"] = 4
push = Push(app)

@push.topic("stock/<sku>")
def stock(sku):
    return {"left": 3}

@app.get("/")
def page():
    return ""

@app.post("/sold/<sku>/<int:left>")
def sold(sku, left):
    threading.Thread(target=push.publish, args=[f"stock/{sku}", {"left": left}]).start()
    return ""
"""
UPDATE = "/push/update?topic=stock/{}&carry=1"


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnApp]:
    command = (*WORKER, "--timeout", str(LIMIT), "app:app")
    with running(tmp_path_factory.mktemp("app"), PUSHING, command) as server:
        yield server


class Gunicorn(Hosted):
    """tests/naive.py on a worker of gunicorn's own."""

    def __init__(self, *options: str) -> None:
        super().__init__("gunicorn", "-b", "127.0.0.1:{port}", "--no-control-socket", *options,
                         "tests.naive:app", path="/")  # fmt: skip


@pytest.fixture(scope="module")
def threads() -> Iterator[Gunicorn]:
    server = Gunicorn("--threads", "2")
    yield server
    server.process.send_signal(signal.SIGQUIT)  # at once
    server.wait()


NGINX = """
daemon off; pid nginx.pid; error_log stderr warn;
events {{ }}
http {{
    access_log off; {paths}
    proxy_read_timeout {limit}s;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{naive}; {upgrade} }}
        location /push/ {{ proxy_pass http://127.0.0.1:{pushing}; {upgrade} }}
        location = /stream {{ proxy_pass http://127.0.0.1:{naive}; }}
        location /default/ {{ proxy_pass http://127.0.0.1:{pushing}/; }}
        location /away/ {{ proxy_pass http://127.0.0.1:{nobody}; }}
    }}
}}
"""
UPGRADED = """
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
"""


class Behind(Server):
    """nginx in front of both apps, with its defaults."""

    def __init__(self, folder: Path, naive: Server, pushing: Server) -> None:
        self.port = free_port()
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        text = NGINX.format(
            paths="".join(f"{name}_temp_path {name};" for name in names), limit=LIMIT,
            upgrade=UPGRADED, port=self.port, naive=naive.port, pushing=pushing.port,
            nobody=free_port(),
        )  # fmt: skip
        (folder / "nginx.conf").write_text(text)
        executable = nginx()
        assert executable
        Program.__init__(self, "-p", str(folder), "-c", "nginx.conf", command=[executable])
        self.is_at(f"http://127.0.0.1:{self.port}")
        eventually(lambda: self.responds("/"))


@pytest.fixture(scope="module")
def behind(
    naive: Naive, pushing: OwnApp, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    server = Behind(tmp_path_factory.mktemp("nginx"), naive, pushing)
    yield server
    server.stop()


def test_other_workers_have_no_websocket(threads: Gunicorn) -> None:
    with threads.websocket("/echo") as browser:
        assert browser.status == 500
    eventually(lambda: "KeyError: 'wsgi.websocket'" in threads.log)


def is_silent(client: Any) -> bool:
    """Tell whether nothing can be read of a socket."""
    return not select.select([client], [], [], 0)[0]


def test_two_sockets_use_up_two_threads(threads: Gunicorn) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(threads.websocket("/flask-sock")) for _ in range(2)]
        for each in sockets:
            each.send(frame(TEXT, b"x"))
            assert each.frame() == (TEXT, b"x")
        with threads.send_get("/") as page:
            threads.until_idle()
            assert is_silent(page)
            sockets[0].send(close_frame(1000))
            assert page.recv(12) == b"HTTP/1.1 200"


@pytest.fixture(scope="module")
def waited(pushing: OwnApp, behind: Behind) -> Iterator[dict[str, Any]]:
    """What has waited for longer than nginx and gunicorn allow, and how it has ended."""
    sync = Gunicorn("--timeout", str(LIMIT))
    ours = f"ws://127.0.0.1:{behind.port}{UPDATE.format('tea')}"
    cursor = pushing.http.get(UPDATE.format("tea")).json[0]["cursor"]
    with ExitStack() as stack:
        pushed = stack.enter_context(open_websocket(ours))
        pushed.recv(HANG_TIMEOUT)
        path = f"{UPDATE.format('tea')}&after={cursor}&timeout=60"
        held = stack.enter_context(pushing.send_get(path))
        silent = stack.enter_context(behind.websocket("/echo"))
        poll = stack.enter_context(sync.send_get("/poll"))
        # However long these two take to end, ours have waited for longer.
        found = {"frame": silent.frame(), "response": read_all(poll)}
        yield {**found, "pushed": pushed, "held": held, "log": lambda: sync.log}
    sync.process.send_signal(signal.SIGQUIT)
    sync.wait()


def test_nginx_cuts_what_is_silent(waited: dict[str, Any]) -> None:
    """Without a close frame, for which a browser has the code 1006."""
    assert waited["frame"] is None


def test_gunicorn_kills_what_waits(waited: dict[str, Any]) -> None:
    assert waited["response"][:13] in (b"HTTP/1.1 500 ", b"")  # if it had time for a response
    eventually(lambda: "WORKER TIMEOUT" in waited["log"]())


def test_nginx_keeps_what_is_pinged(waited: dict[str, Any], pushing: OwnApp) -> None:
    assert max(limits.PING_INTERVAL, limits.HEARTBEAT, limits.POLL_TIMEOUT) < 60  # its default
    assert pushing.http.post("/sold/tea/2", {}).status == 200
    while '"left":2' not in waited["pushed"].recv(HANG_TIMEOUT):
        pass  # what another test has sold


def test_our_worker_may_wait(waited: dict[str, Any], pushing: OwnApp) -> None:
    pushing.http.post("/sold/tea/1", {})
    status = waited["held"].recv(12)
    assert status in (b"HTTP/1.1 200", b"HTTP/1.1 204"), "204 if its time was up before"
    assert "WORKER TIMEOUT" not in pushing.log


def test_a_thread_publishes(pushing: OwnApp) -> None:
    with pushing.websocket(UPDATE.format("coffee")) as browser:
        assert browser.json()["value"] == {"left": 3}
        pushing.http.post("/sold/coffee/2", {})
        assert browser.json()["value"] == {"left": 2}


def test_nginx_holds_events_back(naive: Naive, behind: Behind) -> None:
    """Where the app's response has no chunks, until it ends or a buffer is full."""
    with behind.send_get("/stream") as stream:
        eventually(lambda: naive.seen["streams"])
        for each in (naive, behind):
            each.until_idle()
        assert is_silent(stream)
        naive.http.post("/change", {})
        received = b""
        while b"data: 2" not in received:
            received += stream.recv(4096)
        assert b"data: 1" in received


def test_nginx_passes_our_events_on(behind: Behind) -> None:
    received = b""
    with behind.send_get(f"/default{UPDATE.format('milk')}", "Accept: text/event-stream") as stream:
        while b'"left":3' not in received:
            received += stream.recv(4096)


def test_the_commands_show_the_status(pushing: OwnApp) -> None:
    commands = blocks((DOCS / "troubleshooting.rst").read_text(), "sh")
    for command, status in zip(commands, (200, 101), strict=True):
        command = command.replace("127.0.0.1:5000", f"127.0.0.1:{pushing.port}")
        command = command.replace("curl -i", "exec curl -v").replace("-m 2", "")
        curl = Program("-c", command, command=["sh"])
        eventually(lambda: f"< HTTP/1.1 {status} " in curl.log)  # noqa: B023
        curl.process.kill()
        curl.wait()


def test_nginx_without_its_server_is_502(behind: Behind) -> None:
    assert behind.http.get("/away/").status == 502


# Threads and greenlets.


def run(source: str) -> str:
    """Run a program; return what it prints on both streams."""
    done = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, timeout=HANG_TIMEOUT, check=True)  # fmt: skip
    return done.stdout


def test_a_greenlet_of_another_thread_never_runs() -> None:
    source = """
import threading, gevent
received = []
for where in ("a thread", "the main thread"):
    if where == "a thread":
        thread = threading.Thread(target=gevent.spawn, args=[received.append, where])
        thread.start()
        thread.join()
    else:
        gevent.spawn(received.append, where).join()
print(received)
"""
    assert run(source) == "['the main thread']\n"


#: The two lines come in either order.
TLS = """
{}
{}
try:
    urllib3.util.ssl_.create_urllib3_context()
    print("it works")
except RecursionError as error:
    print(type(error).__name__)
"""
IMPORT, PATCH = "import urllib3.util.ssl_", "from gevent import monkey; monkey.patch_all()"


def test_patching_too_late() -> None:
    printed = run(TLS.format(IMPORT, PATCH))
    assert "MonkeyPatchWarning: Monkey-patching ssl after ssl has already been imported" in printed
    assert printed.endswith("RecursionError\n")


def test_patching_first() -> None:
    assert run(TLS.format(PATCH, IMPORT)) == "it works\n"


# Flask alone.

STARTS = """
import sys, threading, time
from flask import Flask

app = Flask(__name__)

def tick():
    print("starts", file=sys.stderr)
    while threading.main_thread().is_alive():
        time.sleep(0.02)
    print("goes on", file=sys.stderr)
    time.sleep(3600)
"""
AT_IMPORT = """
threading.Thread(target=tick).start()
"""
WHERE_IT_SERVES = """
first = threading.Lock()

@app.before_request
def start_ticking():
    if first.acquire(blocking=False):
        threading.Thread(target=tick, daemon=True).start()
"""


class Reloading(Hosted):
    """`flask run --debug`, of one of these apps."""

    def __init__(self, folder: Path, source: str) -> None:
        (folder / "app.py").write_text(STARTS + source)
        super().__init__("flask", "--app", f"{folder}/app.py", "run", "--debug", "-p", "{port}",
                         path="/")  # fmt: skip

    @property
    def all(self) -> list[psutil.Process]:
        return [*self.children, psutil.Process(self.process.pid)]

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal signals every process."""
        for each in self.all:
            each.send_signal(signal.SIGINT)


def test_a_thread_starts_twice_and_never_ends(tmp_path: Path) -> None:
    server = Reloading(tmp_path, AT_IMPORT)
    eventually(lambda: server.log.count("starts") == 2)
    server.interrupt()
    eventually(lambda: server.log.count("goes on") == 2)
    assert server.process.poll() is None
    for each in server.all:
        each.kill()
    server.wait()


def test_a_thread_starts_once_and_ends(tmp_path: Path) -> None:
    server = Reloading(tmp_path, WHERE_IT_SERVES)
    for _ in range(2):
        assert server.http.get("/").status == 404
    server.interrupt()
    server.wait()
    assert server.log.count("starts") == 1


def test_flasks_client_opens_no_socket() -> None:
    app = Flask("app")

    @app.route("/chat", websocket=True)
    def chat() -> str:
        request.environ["wsgi.websocket"].send("hello")
        return ""

    client = app.test_client()
    assert client.get("/chat").status_code == 400
    app.testing = True
    with pytest.raises(KeyError, match=r"wsgi\.websocket"):
        client.get("/chat", headers=UPGRADE)


# In a browser.


def test_a_dead_connection_is_found_by_push_js_alone(browser: Browser) -> None:
    """A page's own socket gets neither a message nor `onclose`."""
    app = App()
    with Relay(app.port) as relay:
        browser.open(f"http://127.0.0.1:{relay.port}/")
        browser.execute_script(
            "window.events = [];"
            "window.own = new WebSocket('/push/update?carry=1&topic=stock/tea');"
            "for (const name of ['message', 'error', 'close'])"
            "  own.addEventListener(name, () => events.push(name));"
        )
        options = {"transports": ["websocket"]}
        assert browser.execute_async_script(FOLLOW, "/push/push.js", ["stock/tea"], options) == ""
        until_same(lambda: (browser.execute_script("return following.state"), "live"))
        eventually(lambda: browser.execute_script("return events.length"))
        for each in relay.naming("Upgrade: websocket"):
            each.stall()
        app.send("stock/tea", 1)
        browser.execute_script("dispatchEvent(new Event('online'))")  # it checks at once
        eventually(
            lambda: browser.execute_script("return calls.some(([name]) => name === 'onReading')")
        )
        assert browser.execute_script("return [own.readyState, ...events]") == [1, "message"]
        browser.open("about:blank")
    assert app.stop() == 0, app.log
