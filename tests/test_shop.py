"""examples/shop on servers: its database pool, logout, reconnecting, its page below a path."""

import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from sqlalchemy import create_engine, insert
from werkzeug.security import generate_password_hash

from bench.servers import free_port, nginx, nginx_configuration
from examples.shop.models import Base, Product, User
from tests.browsing import DESK, PHONE, Browser, check_looks
from tests.clients import Response, read_all
from tests.conftest import ROOT, Program, Server, eventually
from tests.hosting import BIN, start_nginx
from tests.redis_server import RedisServer

WORKER = "pushlab.hosting.gunicorn.Worker"
GUNICORN = (
    "gunicorn", "-k", WORKER, "-b", "127.0.0.1:{port}", "--no-control-socket",
    "examples.shop.app:app",
)  # fmt: skip
SERVERS = {
    "gunicorn": GUNICORN,
    "four workers": (*GUNICORN, "--workers", "4"),
    "threads": ("flask", "--app", "examples.shop.app", "run", "-p", "{port}"),
}  # fmt: skip
BROWSERS = 20  #: SQLAlchemy's default pool has 5 + 10 connections
TRANSPORTS = ("websocket", "sse", "longpoll")


class Shop(Server):
    """The shop, with a database of its own and cheap passwords."""

    def __init__(self, server: str, folder: Path, *, port: int = 0, **settings: str) -> None:
        database = f"sqlite:///{folder}/shop.db"
        if not (folder / "shop.db").exists():
            self.set_up(database)
        self.environment = {"SHOP_DATABASE": database, "SHOP_RESTOCK_TOKEN": "token", **settings}
        self.port = port or free_port()
        executable, *arguments = (part.format(port=self.port) for part in SERVERS[server])
        Program.__init__(
            self, *arguments, command=[str(BIN / executable)], environment=self.environment
        )
        self.is_at(f"http://127.0.0.1:{self.port}")
        eventually(lambda: self.responds("/login"))

    def set_up(self, database: str) -> None:
        engine = create_engine(database)
        Base.metadata.create_all(engine)
        password = generate_password_hash("secret", "pbkdf2:sha256:1")
        users = [{"name": f"user{n}", "password": password} for n in range(BROWSERS + 2)]
        with engine.begin() as connection:
            connection.execute(insert(User), users)
            connection.execute(
                insert(Product), [{"sku": "mug", "left": 3}, {"sku": "tea", "left": 0}]
            )
        engine.dispose()

    def log_in(self, name: str) -> dict[str, str]:
        """Return the header with the cookie of a login."""
        response = self.post("/login", f"name={name}&password=secret")
        assert response.status == 302, response
        return {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}

    def post(self, path: str, form: str = "", **headers: str) -> Response:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return self.http.request("POST", path, form.encode(), headers=headers)

    def restock(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run restock.py to its end."""
        return subprocess.run(
            [sys.executable, "examples/shop/restock.py", *arguments],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, **self.environment, "SHOP_URL": self.url, **environment},
        )  # fmt: skip


@pytest.fixture(params=["gunicorn", "threads"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(request.param, tmp_path)
    try:
        yield shop
    finally:
        assert shop.stop() in (0, -15), shop.log
    assert "Traceback" not in shop.log, shop.log


def orders_of(user: int) -> str:
    return f"/push/update?topic=orders/{user}&carry=1"


def follow(shop: Shop, user: int, login: Mapping[str, str], transport: str) -> Any:
    """Follow the user's orders from the newest on."""
    [newest] = shop.http.get(f"{orders_of(user)}&timeout=0", headers=login).json
    path = f"{orders_of(user)}&after={newest['cursor']}&timeout=60"
    if transport == "websocket":
        socket = shop.websocket(path, changes=login)
        assert socket.status == 101
        return socket
    accept = "text/event-stream" if transport == "sse" else "application/json"
    return shop.send_get(path, f"Cookie: {login['Cookie']}", f"Accept: {accept}")


def test_the_twenty_first_user_is_served(shop: Shop) -> None:
    """None of those that wait has a connection to the database."""
    logins = [shop.log_in(f"user{n}") for n in range(BROWSERS + 1)]
    with ExitStack() as stack:
        following = [
            [stack.enter_context(follow(shop, n + 1, login, transport)) for transport in TRANSPORTS]
            for n, login in enumerate(logins[:BROWSERS])
        ]
        shop.until_idle()
        page = shop.http.get("/", headers=logins[-1])
        assert page.status == 200
        assert b'<span data-stock="tea">0</span>' in page.body

        # What one orders is pushed to its three connections, by whatever transport.
        assert shop.post("/buy/tea", **logins[0]).status == 302
        value = {"order": 1, "sku": "tea", "status": "waiting"}
        socket, stream, poll = following[0]
        assert socket.json()["value"] == value
        assert b'"status":"waiting"' in read_until(stream, b"data: ", b"\n\n")
        [order] = read_poll(poll).json
        assert (order["topic"], order["value"]) == ("orders/1", value)

        # Its logout ends them, and nobody else's; its cookie is worth nothing any more.
        with follow(shop, 1, logins[0], "longpoll") as held:
            shop.until_idle()
            assert shop.post("/logout", **logins[0]).status == 302
            assert socket.close_code() == 4401
            assert b"data:" not in read_all(stream)
            assert read_poll(held).status == 401
        assert shop.http.get("/", headers=logins[0]).status == 302
        assert shop.http.get(orders_of(1), headers=logins[0]).status == 401
        assert shop.http.get(orders_of(3), headers=logins[1]).status == 403
        following[1][0].ping()


def read_until(stream: Any, *ends: bytes) -> bytes:
    """Read until each of these has come, one after another."""
    read, place = b"", 0
    for end in ends:
        while (found := read.find(end, place)) < 0:
            piece = stream.recv(4096)
            assert piece, read
            read += piece
        place = found + len(end)
    return read


def read_poll(poll: Any) -> Response:
    """Return the response to a poll."""
    head, _, body = read_until(poll, b"\r\n\r\n").partition(b"\r\n\r\n")
    [length] = re.findall(rb"(?i)content-length: (\d+)", head)
    while len(body) < int(length):
        body += poll.recv(4096)
    return Response(int(head.split()[1]), {}, body)


@pytest.mark.parametrize("shop", ["gunicorn"], indirect=True)
def test_orders_are_not_missed_while_away(shop: Shop) -> None:
    login = shop.log_in("user0")
    page = shop.http.get("/", headers=login).body.decode()
    [after] = re.findall(r'data-after="([^"]+)"', page)
    for _ in range(3):
        assert shop.post("/buy/tea", **login).status == 302
    assert shop.restock("tea", "2").returncode == 0
    with shop.websocket(f"/push/update?topic=orders/1&after={after}&carry=1", changes=login) as it:
        values = [it.json()["value"] for _ in range(5)]
    assert [(each["order"], each["status"]) for each in values] == [
        (1, "waiting"), (2, "waiting"), (3, "waiting"), (1, "sent"), (2, "sent"),
    ]  # fmt: skip
    for arguments, environment, said in (
        (("tea", "1"), {"SHOP_RESTOCK_TOKEN": "another"}, "401"),
        (("tea", "1"), {"SHOP_URL": f"http://127.0.0.1:{free_port()}"}, "refused"),
        (("beer", "1"), {}, "404"),
        (("tea", "-1"), {}, "say what"),
        ((), {}, "say what"),
    ):
        done = shop.restock(*arguments, **environment)
        assert done.returncode != 0
        assert re.fullmatch(f"restock.py: .*{said}.*\n", done.stderr), done.stderr


def test_four_workers_sell_what_there_is(tmp_path: Path) -> None:
    """Behind nginx, and unchanged but for one setting; many buy at once, and deliveries come."""
    with ExitStack() as stack:
        redis = RedisServer(tmp_path)
        stack.callback(redis.stop)
        one_line: Any = {"SHOP_PUSHLAB_REDIS": redis.url}
        settings: Any = {"SHOP_SECRET_KEY": "secret", "SHOP_PUSHLAB_TRUSTED_PROXIES": "127.0.0.1"}
        shop = Shop("four workers", tmp_path, **settings, **one_line)
        stack.callback(shop.stop)
        eventually(lambda: len(shop.children) == 4)
        proxy = start_nginx(tmp_path, shop.port, port := free_port())
        stack.callback(proxy.stop)
        shop.is_at(f"http://127.0.0.1:{port}")
        eventually(lambda: shop.responds("/login"))
        logins = [shop.log_in(f"user{n}") for n in range(BROWSERS)]
        topics = "topic=stock/mug&topic=orders/{}"
        following = [
            stack.enter_context(
                shop.websocket(f"/push/update?{topics.format(n + 1)}&carry=1", changes=login)
            )
            for n, login in enumerate(logins)
        ]
        for browser in following:
            begun = {browser.json()["topic"].partition("/")[0] for _ in range(2)}
            assert begun == {"stock", "orders"}

        def buy(login: dict[str, str]) -> int:
            return shop.post("/buy/mug", **login).status

        def deliver(count: int) -> int:
            return shop.post(f"/restock/mug/{count}", Authorization="Bearer token").status

        with ThreadPoolExecutor(BROWSERS + 1) as pool:
            deliveries = [pool.submit(deliver, count) for count in (1, 2, 0, 3, 1) * 4]
            assert {*pool.map(buy, logins * 3)} == {302}
            assert {delivery.result() for delivery in deliveries} == {200}
        # 3 there were, 28 came, and 60 were ordered.
        with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
            [left] = database.execute("SELECT \"left\" FROM product WHERE sku = 'mug'").fetchone()
            statuses = dict(database.execute('SELECT id, status FROM "order"'))
        assert (left, Counter(statuses.values())) == (0, {"sent": 31, "waiting": 29})

        def newest(topic: str) -> str:
            epoch, last = redis.do("HMGET", f"pushlab:{{{topic}}}:meta", "epoch", "last")
            return f"{epoch.decode()}-{last.decode()}"

        # What was published last is what there is, for each topic and in every process.
        shown: dict[int, str] = {}
        for n, browser in enumerate(following):
            last = {topic: newest(topic) for topic in ("stock/mug", f"orders/{n + 1}")}
            seen: dict[str, str] = {}
            while seen != last:
                reading = browser.json()
                seen[reading["topic"]] = reading["cursor"]
                if reading["topic"] == "stock/mug":
                    left = reading["value"]["left"]
                    assert left >= 0
                else:
                    shown[reading["value"]["order"]] = reading["value"]["status"]
            assert left == 0
        assert shown == statuses
        assert "Traceback" not in shop.log, shop.log


BELOW_SHOP = {
    "# location /push/": "location /shop/",
    "# location = /push/update": "location = /shop/push/update",
    "pushlab/update": "pushlab/push/update",
    'Prefix ""': "Prefix /shop",
}


def test_its_page_works_below_a_path(tmp_path: Path, browser: Browser, axe: str) -> None:
    """With servers/nginx.conf in front of gunicorn; through a restart, and a logout elsewhere."""
    settings: Any = {"SHOP_PUSHLAB_TRUSTED_PROXIES": "127.0.0.1", "SHOP_SECRET_KEY": "secret"}
    shop = Shop("gunicorn", tmp_path, **settings)
    text = nginx_configuration(listen=(port := free_port()), server=(inner := shop.port))
    text = re.sub(r"(?s)location / .* instead[^\n]*\n", "", text)
    for old, new in BELOW_SHOP.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text(text)
    proxy = Program("-p", str(tmp_path), "-c", "nginx.conf", command=[nginx() or "nginx"])
    shop.is_at(f"http://127.0.0.1:{port}")
    url = f"{shop.url}/shop/"
    eventually(lambda: shop.responds("/shop/login"))

    browser.open(url)
    assert browser.current_url.startswith(f"{url}login")
    check_looks(browser, axe, "shop, login", (DESK, "light"), (PHONE, "dark"))
    browser.switch_to.active_element.send_keys("user0", Keys.TAB, "secret", Keys.ENTER)
    eventually(lambda: browser.current_url == url)
    eventually(lambda: state(browser) == "live")
    browser.find("[aria-label='Buy tea']").send_keys(Keys.ENTER)
    eventually(lambda: shown(browser) == ["0", ["Order 1, tea: waiting"]])
    assert shop.restock("tea", "5", SHOP_URL=url).returncode == 0
    eventually(lambda: shown(browser) == ["4", ["Order 1, tea: sent"]])
    check_looks(browser, axe, "shop", (DESK, "light"), (PHONE, "dark"))
    events = browser.network_log()
    sent = [params["request"]["url"] for name, params in events if name == "requestWillBeSent"]
    assert [each for each in sent if not each.startswith(url)] == []
    assert browser.complaints() == []

    # After a restart the log is another one, so the page reads the database again.
    assert shop.stop() == 0, shop.log
    eventually(lambda: state(browser) != "live")
    shop = Shop("gunicorn", tmp_path, port=inner, **settings)
    assert shop.post("/restock/tea/1", Authorization="Bearer token").status == 200
    eventually(lambda: shown(browser) == ["5", ["Order 1, tea: sent"]])
    eventually(lambda: state(browser) == "live")
    cookie = browser.get_cookie("session")
    assert cookie
    assert shop.post("/logout", Cookie=f"session={cookie['value']}").status == 302
    eventually(lambda: browser.current_url == f"{url}login")
    assert (shop.stop(), proxy.stop()) == (0, 0), shop.log + proxy.log


#: The state of the page's connection, the stock and the orders that it shows; all at one moment.
SHOWN = """
const text = (element) => element?.textContent;
return [
  document.querySelector("[role=status]")?.dataset.state,
  text(document.querySelector("[data-stock=tea]")),
  [...document.querySelectorAll("[data-order]")].map(text),
];
"""


def state(browser: Browser) -> str:
    return str(browser.execute_script(SHOWN)[0])


def shown(browser: Browser) -> list[Any]:
    found: list[Any] = browser.execute_script(SHOWN)
    return found[1:]
