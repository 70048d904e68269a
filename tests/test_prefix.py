"""The app below a path: behind a proxy, by SCRIPT_NAME, in another app."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.app import create_app
from lab.instruments import Lab
from lab.settings import Settings
from pushlab import Feed, Hub
from pushlab.wsgi.proxy_headers import apply_forwarded, network
from tests.browsing import LANES, Browser
from tests.conftest import ROOT, Server, eventually
from tests.hosting import GUNICORN, Hosted, Proxied
from tests.test_examples import Example

OPTIONS = ("--source", "http")

#: How to serve the page below a path without nginx.
PLACES: dict[str, Callable[[], Server]] = {
    "SCRIPT_NAME": lambda: Hosted(
        *GUNICORN, "serve:app", options=OPTIONS, environment={"SCRIPT_NAME": "/push"}
    ),
    "DispatcherMiddleware": lambda: Hosted(
        *GUNICORN, "tests.prefixed:app", options=OPTIONS, path="/push/healthz"
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_all_that_the_page_requests_is_below_the_path(place: str) -> None:
    """That the page then works shows the test below: it is the same one."""
    server = PLACES[place]()
    for path in ("/push/", "/push/code/sse"):
        page = server.http.get(path).body.decode()
        links = re.findall(r'\b(?:href|src)="(/[^"#]*)', page)
        assert len(links) > len(LANES)
        for link in links:
            assert link.startswith("/push/")
            response = server.http.get(link)
            assert response.status == (302 if link.endswith("/docs/") else 200), link
            assert response.headers.get("Location", "/push/").startswith("/push/")
        assert path != "/push/" or 'data-root="/push"' in page
    cursor = server.http.post("/push/data", {"line": "below"}).json["cursor"]
    assert server.http.get("/push/data").json["cursor"] == cursor
    assert server.http.get("/push/update?carry=1").json["value"] == {"line": "below"}
    with server.send_get("/push/update", "Accept: text/event-stream") as stream:
        assert stream.recv(12) == b"HTTP/1.1 200"
    for path in ("/push/update", "/push/lab"):
        with server.websocket(path) as opened:
            assert opened.status == 101
    assert server.stop() == 0, server.log


def test_the_page_works_below_a_path(tmp_path: Path, browser: Browser) -> None:
    server = Proxied(tmp_path, *OPTIONS, prefix="/push")
    browser.server = server
    browser.visit(server, "/push/")
    cursor = server.http.post("/push/data", {"line": "below"}).json["cursor"]
    browser.until_live(cursor=cursor, text="below")
    for lane in browser.lanes:
        lane.set_carry(False)
    cursor = server.http.post("/push/data", {"line": "signalled"}).json["cursor"]
    browser.until_live(cursor=cursor, text="signalled")
    browser.lane("longpoll").press("code")
    eventually(lambda: len(browser.find_all("dialog pre")) == 2)
    links = [link.get_attribute("href") for link in browser.find_all("a[href]")]
    browser.open(f"{server.url}/push/?present")
    links += [link.get_attribute("href") for link in browser.find_all("nav a[href]")]
    browser.open(f"{server.url}/push/code/sse")
    links += [link.get_attribute("href") for link in browser.find_all("a[href]")]
    assert len(links) > len(LANES)
    assert [link for link in links if not link.startswith(f"{server.url}/push/")] == []
    urls = [
        params["url"] if name == "webSocketCreated" else params["request"]["url"]
        for name, params in browser.network_log()
        if name in ("webSocketCreated", "requestWillBeSent")
    ]
    ours = (f"{server.url}/push/", f"{server.ws}/push/", "data:")
    assert [url for url in urls if not url.startswith(ours)] == []
    assert browser.complaints() == []
    assert server.stop() == 0, server.log


def test_an_example_works_below_a_path(browser: Browser) -> None:
    server = Example("chat", "gunicorn", SCRIPT_NAME="/push")
    browser.open(f"{server.url}/push/")
    assert browser.current_url == f"{server.url}/push/chat/lobby"
    browser.find("[name=name]").send_keys("Ann\n")
    eventually(lambda: browser.find("[data-members]").text == "Ann")
    browser.find("[name=room]").send_keys("blue\n")
    eventually(lambda: browser.current_url == f"{server.url}/push/chat/blue")
    assert server.stop() == 0, server.log


def test_no_script_or_template_names_a_path_of_the_server() -> None:
    """Whatever begins with a slash goes through `root` or `url_for`."""
    scripts = [*ROOT.glob("static/*.js"), *ROOT.glob("examples/static/*.js")]
    for path in scripts:
        for line in path.read_text().splitlines():
            assert not re.search(r"""(WebSocket|EventSource|fetch|assign)\(["'`]/""", line), line
    for path in (*ROOT.glob("templates/*.html"), *ROOT.glob("examples/templates/*.html")):
        assert not re.search(r"""\b(href|src|action)=["']/""", path.read_text()), path


def test_links_to_far_ports_are_below_the_path() -> None:
    settings = Settings(source="http")
    feed = Feed()
    lab = Lab(feed, settings, freeze=lambda _: None)
    lab.ports = {0: 5000, 200.0: 5001}
    client = create_app(feed, Hub(), lab, settings).test_client()
    for prefix in ("", "/push", "/a/b"):
        html = client.get("/", base_url=f"http://localhost:5000{prefix}/").text
        links = re.findall(r'<a href="(http:[^"]*)"', html)
        assert links
        assert set(links) == {f"http://localhost:{port}{prefix}/" for port in (5000, 5001)}, links


@pytest.mark.parametrize(
    ("forwarded", "script_name"),
    [
        ("/push", "/push"), ("/push/", "/push"), ("push", "/push"), ("/a/b", "/a/b"), ("/", ""),
        ("", ""), ("//evil.example/", "/evil.example"), ("/evil, /push", "/push"),
    ],
)  # fmt: skip
def test_the_prefix_that_a_trusted_proxy_names(forwarded: str, script_name: str) -> None:
    for sender, expected in (("127.0.0.1", script_name), ("203.0.113.9", "")):
        environ: dict[str, Any] = {
            "REMOTE_ADDR": sender, "HTTP_HOST": "inner", "SCRIPT_NAME": "", "PATH_INFO": "/data",
            "HTTP_X_FORWARDED_FOR": "192.0.2.1", "HTTP_X_FORWARDED_PREFIX": forwarded,
        }  # fmt: skip
        apply_forwarded(environ, (network("127.0.0.1"),))
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (expected, "/data")
