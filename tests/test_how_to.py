"""The how-to pages: each page's app is run as it is printed, and does what the page says."""

import json
import os
import re
import socket
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from bench.servers import free_port, nginx
from tests.clients import HANG_TIMEOUT, TEXT, RawSocket, frame, handshake, read_all
from tests.conftest import ROOT, UNVERIFIED, Program, Server, eventually
from tests.hosting import BIN
from tests.redis_server import RedisServer

PAGES = ROOT / "docs" / "how-to"
FLASK = ("flask", "--app", "app", "run", "-p", "{port}")
GUNICORN = ("gunicorn", "-k", "pushlab.hosting.gunicorn.Worker", "-b", "127.0.0.1:{port}",
            "--no-control-socket", "app:app")  # fmt: skip


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in this language."""
    text = (PAGES / f"{page}.rst").read_text()
    found = re.findall(rf"^\.\. code:: {language}\n\n((?: {{3}}.*\n|\n)+)", text, re.M)
    return [textwrap.dedent(block).strip() + "\n" for block in found]


class App(Server):
    """A page's app, in a folder of its own."""

    def __init__(
        self, source: str, folder: Path, command: tuple[str, ...] = FLASK,
        environment: Mapping[str, str] = MappingProxyType({}), port: int = 0,
    ) -> None:  # fmt: skip
        (folder / "app.py").write_text(source)
        self.port = port or free_port()
        executable, *arguments = (part.format(port=self.port) for part in command)
        self.environment = {"PYTHONPATH": f"{ROOT}:{folder}", **environment}
        Program.__init__(
            self, *arguments, command=[str(BIN / executable)], folder=folder,
            environment=self.environment,
        )  # fmt: skip
        self.is_at(f"http://127.0.0.1:{self.port}")
        eventually(lambda: self.responds("/push/push.js"))

    def follow(self, *topics: str, login: Mapping[str, str] = MappingProxyType({})) -> RawSocket:
        """Follow topics over a WebSocket."""
        path = "&".join(["/push/update?carry=1", *(f"topic={topic}" for topic in topics)])
        return self.websocket(path, changes=login)

    def log_in(self, name: str) -> dict[str, str]:
        """Return the header with the cookie of a login."""
        response = self.http.post(f"/login/{name}", {})
        assert response.status == 200, self.log
        return {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}


Run = Callable[..., App]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run the app of a page."""
    apps: list[App] = []

    def run(page: str, *command: str, **environment: str) -> App:
        app = blocks(page, "python")[0]
        assert len([line for line in app.splitlines() if line]) <= 25
        apps.append(App(app, tmp_path, command or FLASK, environment))
        return apps[-1]

    yield run
    for app in apps:
        app.stop()
        assert "Traceback" not in app.log, app.log


def test_every_page_has_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    index = (PAGES / "index.rst").read_text()
    for path in set(PAGES.glob("*.rst")) - {PAGES / "index.rst"}:
        assert f'"{path.stem}"' in tests or f"how-to/{path.name}" in tests, path
        assert f"<{path.name}>" in index


def test_push_from_a_route_a_thread_and_a_process(run: Run, tmp_path: Path) -> None:
    with started_redis(tmp_path) as redis:
        app = run("push-from-anywhere", REDIS_URL=redis.url)
        with app.follow("stock/tea") as browser:
            assert "value" not in browser.json()
            assert app.http.post("/sold/tea/7", {}).status == 200
            assert browser.json()["value"] == {"left": 7}
            assert app.http.post("/sale/tea", {}).status == 200
            while browser.json()["value"] != {"left": 0}:
                pass
            (tmp_path / "other.py").write_text(blocks("push-from-anywhere", "python")[1])
            [by_hand] = blocks("push-from-anywhere", "sh")
            for command, left in ((f"{BIN}/python other.py", 40), (f"{BIN}/{by_hand}", 41)):
                done = subprocess.run(
                    ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True,
                    env={**os.environ, **app.environment}, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
                assert browser.json()["value"] == {"left": left}


@contextmanager
def started_redis(folder: Path) -> Iterator[RedisServer]:
    redis = RedisServer(folder)
    try:
        yield redis
    finally:
        redis.stop()


def test_push_to_one_user(run: Run) -> None:
    app = run("to-one-user")
    ann, bob = app.log_in("7"), app.log_in("8")
    with app.follow("orders/7", login=ann) as hers, app.follow("orders/8", login=bob) as his:
        for browser in (hers, his):
            browser.json()
        assert app.http.post("/ship/7/1", {}).status == 200
        assert app.http.post("/ship/8/2", {}).status == 200
        assert hers.json()["value"] == {"order": 1, "status": "shipped"}
        assert his.json()["value"] == {"order": 2, "status": "shipped"}
    for login, status in ((bob, 403), ({}, 401)):
        with app.follow("orders/7", login=login) as refused:
            assert refused.status == status
        assert app.http.get("/push/update?topic=orders/7", headers=login).status == status


def test_a_logout_ends_what_was_followed(run: Run) -> None:
    app = run("login-and-logout", *GUNICORN)
    ann, on_her_phone = app.log_in("ann"), app.log_in("ann")
    with ExitStack() as stack:
        open_one = [stack.enter_context(app.follow("orders/ann", login=ann)) for _ in range(2)]
        other = stack.enter_context(app.follow("orders/ann", login=on_her_phone))
        for browser in (*open_one, other):
            browser.json()
        assert app.http.post("/logout", {}, headers=ann).json == {"ended": 2}
        assert [browser.close_code() for browser in open_one] == [4401, 4401]
        other.ping()
        with app.follow("orders/ann", login=ann) as copied:
            assert copied.status == 401


#: What a line of nginx.conf is for: without it, this is different.
HEADER = "proxy_set_header "
NGINX: dict[str, tuple[str, dict[str, Any]]] = {
    "``Upgrade``": (HEADER + r"(Upgrade|Connection) .*", {"websocket": 200}),
    "both with ``$http_host``": (
        HEADER + r"\S+ \$http_host;", {"websocket": 403, "linked": False},
    ),
    "``X-Forwarded-Proto``": (HEADER + "X-Forwarded-Proto .*", {"linked": False}),
    "``X-Forwarded-Prefix``": (HEADER + "X-Forwarded-Prefix .*", {"linked": False}),
    "``X-Forwarded-For``": (HEADER + "X-Forwarded-For .*", {"address": "127.0.0.1"}),
    "``PUSHLAB_TRUSTED_PROXIES``": ("", {"linked": False, "address": "127.0.0.1"}),
}  # fmt: skip


def test_behind_nginx(run: Run, tmp_path: Path, certificate: tuple[str, str]) -> None:
    """The configuration that is printed, and without each of its lines."""
    page = (PAGES / "behind-nginx.rst").read_text()
    table = page[page.index(".. table: tests/test_how_to.py") :]
    assert re.findall(r"^((?:both|``).*?) {2,}\S", table, re.M) == list(NGINX)
    app = run("behind-nginx", *GUNICORN)
    [printed] = blocks("behind-nginx", "nginx")
    conf = in_place(printed, app.port, certificate)
    good = {"websocket": 101, "linked": True, "address": "127.0.0.2"}
    assert behind(conf, tmp_path) == good
    for missing, (line, changed) in NGINX.items():
        without, number = re.subn(rf"^ *{line}\n", "", conf, flags=re.M)
        if not line:
            app.stop()
            source = blocks("behind-nginx", "python")[0]
            (tmp_path / "other").mkdir()
            app = App(re.sub(r"(?m)^app.config.*", "", source), tmp_path / "other", GUNICORN)
            without = in_place(printed, app.port, certificate)
        assert number or not line, missing
        assert behind(without, tmp_path) == {**good, **changed}, missing
    app.stop()


def in_place(printed: str, port: int, certificate: tuple[str, str]) -> str:
    """Return what is printed, for this machine."""
    for old, new in {
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "/etc/ssl/shop.pem": certificate[0],
        "/etc/ssl/shop.key": certificate[1],
    }.items():
        assert old in printed
        printed = printed.replace(old, new)
    return printed


def behind(conf: str, folder: Path) -> dict[str, Any]:
    """Return what a browser at 127.0.0.2 gets of the app behind nginx."""
    port = free_port()
    conf = conf.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path {name};\n" for name in names)
    (folder / "nginx.conf").write_text(
        "daemon off;\npid nginx.pid;\nerror_log stderr warn;\nevents { }\n"
        f"http {{\naccess_log off;\n{paths}{conf}}}\n"
    )
    proxy = Program("-p", str(folder), "-c", "nginx.conf", command=[nginx() or "nginx"])
    try:
        eventually(lambda: connects(port))
        with from_elsewhere(port) as browser:
            browser.sendall(
                b"GET /shop/ HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"
            )
            page = json.loads(read_all(browser).partition(b"\r\n\r\n")[2])
        origin = {"Host": "shop.example", "Origin": "https://shop.example"}
        path = "/shop/push/update?topic=stock/tea&carry=1"
        with from_elsewhere(port) as browser:
            browser.sendall(handshake(path, changes=origin))
            status = int(browser.recv(12).split()[1])
        with from_elsewhere(port) as browser:
            head = f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nAccept: text/event-stream\r\n\r\n"
            browser.sendall(head.encode())
            read = b""
            while b'"left":3' not in read:
                piece = browser.recv(4096)
                assert piece, read
                read += piece
    finally:
        assert proxy.stop() == 0, proxy.log
    linked = page["page"] == "https://shop.example/shop/"
    return {"websocket": status, "linked": linked, "address": page["address"]}


def connects(port: int) -> bool:
    with suppress(OSError), from_elsewhere(port):
        return True
    return False


def from_elsewhere(port: int) -> socket.socket:
    """Return a connection from another address than nginx's."""
    plain = socket.create_connection(("127.0.0.1", port), HANG_TIMEOUT, ("127.0.0.2", 0))
    return UNVERIFIED.wrap_socket(plain, server_hostname="shop.example")


def test_what_was_missed(run: Run) -> None:
    app = run("what-was-missed")
    page = app.http.get("/").json
    path = f"/push/update?topic=chat&carry=1&after={page['after']}&timeout=0"
    for text in "abc":
        app.http.post(f"/say/{text}", {})
    assert [each["value"]["text"] for each in app.http.get(path).json] == ["a", "b", "c"]
    newest = app.http.post("/say/d", {}).json["cursor"]
    [reset] = app.http.get(path).json
    assert reset == {"topic": "chat", "cursor": newest, "reset": True}
    assert app.http.get("/").json == {"after": newest, "messages": ["a", "b", "c", "d"]}
    [price] = app.http.get("/push/update?topic=price&carry=1").json
    assert price["value"] == {"cents": 100}


def test_who_is_online(run: Run) -> None:
    app = run("who-is-online")
    ann, bob = app.log_in("ann"), app.log_in("bob")

    def until(browser: RawSocket, *names: str) -> None:
        while browser.json()["value"] != {"names": list(names)}:
            pass

    with app.follow("online", login=ann) as first:
        until(first, "ann")
        with app.follow("online", login=bob), app.follow("online"):
            until(first, "a guest", "ann", "bob")
            with app.follow("online", login=bob) as second_tab:
                until(second_tab, "a guest", "ann", "bob")
        until(first, "ann")


def test_a_waiting_browser_holds_no_database_connection(run: Run) -> None:
    """Nor does a conversation that has given it back; SQLAlchemy's pool has 15."""
    app = run("database-sessions")
    path = "/push/update?topic=stock/tea"
    cursor = app.http.get(path).json[0]["cursor"]
    with ExitStack() as stack:
        for _ in range(20):
            pushed = stack.enter_context(app.websocket(path))
            conversing = stack.enter_context(app.websocket("/chat"))
            stack.enter_context(app.send_get(f"{path}&after={cursor}"))
            stack.enter_context(app.send_get(path, "Accept: text/event-stream"))
        assert pushed.json()["topic"] == "stock/tea"
        conversing.send(frame(TEXT, b"?"))
        assert conversing.frame() == (TEXT, b"3 left")
        assert app.http.get("/").json == {"left": 3}


def test_several_workers(run: Run, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    try:
        command = (*GUNICORN[:-1], "-w", "2", "app:app")
        app = run("several-workers", *command, REDIS_URL=redis.url)
        published_in: set[int] = set()
        with ExitStack() as stack:
            browsers = [stack.enter_context(app.follow("orders/7")) for _ in range(4)]
            number = 0
            while number < 10 or len(published_in) < 2:  # both have published
                published_in.add(app.http.post(f"/order/7/{number}", {}).json["worker"])
                number += 1
            for browser in browsers:
                received: list[int] = []
                while len(received) < number:
                    message = browser.json()
                    received += [message["value"]["order"]] if "value" in message else []
                assert received == list(range(number))
    finally:
        redis.stop()


def test_watch_it(run: Run, tmp_path: Path) -> None:
    """The metrics' token, what the dashboard needs, and the line in the log."""
    log = tmp_path / "access.log"
    app = run("watch-it", *GUNICORN, ACCESS_LOG=str(log), METRICS_TOKEN="secret")
    [printed] = blocks("watch-it", "sh")
    assert set(re.findall("([A-Z_]+)=", printed)) == {"ACCESS_LOG", "METRICS_TOKEN"}
    [configuration] = blocks("watch-it", "yaml")
    [token] = re.findall(r"credentials: (\w+)", configuration)
    assert app.http.get("/healthz").json == {"status": "ok"}
    assert app.http.get("/metrics").status == 401
    with app.follow("orders/7") as browser:
        browser.json()
        metrics = app.http.get("/metrics", headers={"Authorization": f"Bearer {token}"})
        expected = 'pushlab_subscribers{topic="orders/<int:user>",transport="websocket"} 1.0'
        assert expected in metrics.body.decode()
    eventually(lambda: '"transport": "websocket", "topics": ["orders/7"]' in log.read_text())
