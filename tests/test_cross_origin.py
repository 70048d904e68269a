"""Pages of other origins: what `--allow-origin` lets them do (CORS)."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browsing import Browser
from tests.clients import Response
from tests.conftest import Server, Start, eventually, starting

ALLOWED, OTHER = "https://page.example", "https://evil.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST"}
TOKEN = {"Authorization": "Bearer s3cret"}
OPTIONS = ("--source", "http", "--token", "s3cret")

#: Each of our servers, with Flask in between and without.
DISPATCHES = [
    ("serve.py",), ("serve.py", "--no-direct"),
    ("servers/threads.py",), ("servers/threads.py", "--no-direct"),
]  # fmt: skip


@pytest.fixture(scope="module", params=DISPATCHES, ids=" ".join)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with starting() as start:
        yield start(*request.param, *OPTIONS, "--allow-origin", f"{ALLOWED}:443")


def cors(response: Response) -> dict[str, str]:
    """What a response says of other origins."""
    return {
        name.removeprefix("Access-Control-"): value
        for name, value in response.headers.items()
        if name.startswith("Access-Control-")
    }


READABLE = {"Allow-Origin": ALLOWED, "Expose-Headers": "ETag"}
PERMITTED = {
    "Allow-Origin": ALLOWED,
    "Allow-Methods": "GET, HEAD, POST",
    "Allow-Headers": "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID",
    "Max-Age": "600",
}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/data", {}, 200),
        ("GET", "/data", {"If-None-Match": "*"}, 304),
        ("GET", "/data", {"If-Match": '"x-1"'}, 412),
        ("HEAD", "/data", {}, 200),
        ("GET", "/update", {}, 200),
        ("GET", "/update?after=nonsense", {}, 400),
        ("POST", "/data", TOKEN, 201),
        ("POST", "/data", TOKEN | {"Content-Type": "text/plain"}, 201),
        ("POST", "/data", {}, 401),
        ("PUT", "/data", {}, 405),
        ("OPTIONS", "/data", {}, 200),  # not a preflight
        ("OPTIONS", "/data", PREFLIGHT, 204),
        ("OPTIONS", "/data", PREFLIGHT | {"Access-Control-Request-Method": "DELETE"}, 204),
        ("OPTIONS", "/update", PREFLIGHT | {"Access-Control-Request-Headers": "x-other"}, 204),
    ],
)
def test_an_allowed_origin_may_read_every_response(
    server: Server, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    body = b"{}" if method in ("POST", "PUT") else None
    response = server.http.request(method, path, body, headers={"Origin": ALLOWED, **headers})
    assert response.status == status
    assert cors(response) == (PERMITTED if status == 204 else READABLE)
    assert response.headers["Vary"] == "Origin"


def test_a_silent_poll_and_a_stream_may_be_read(server: Server) -> None:
    response = server.http.get(
        f"/update?after={server.cursor}&timeout=0", headers={"Origin": ALLOWED}
    )
    assert (response.status, cors(response)) == (204, READABLE)
    with (
        server.send_get("/update", "Accept: text/event-stream", f"Origin: {ALLOWED}") as stream,
        stream.makefile("rb") as lines,
    ):
        head = [line.strip().decode() for line in iter(lines.readline, b"\r\n")]
    assert f"Access-Control-Allow-Origin: {ALLOWED}" in head
    assert "Vary: Origin" in head


@pytest.mark.parametrize(
    ("method", "path", "origin", "headers", "status"),
    [
        ("GET", "/data", OTHER, {}, 200),
        ("GET", "/data", "null", {}, 200),
        ("GET", "/data", f"{ALLOWED}:8443", {}, 200),
        ("GET", "/update", OTHER, {}, 200),
        ("OPTIONS", "/data", OTHER, PREFLIGHT, 200),
        ("OPTIONS", "/update", "null", PREFLIGHT, 200),
        ("POST", "/data", OTHER, TOKEN, 403),
        ("POST", "/data", OTHER, TOKEN | {"Content-Type": "text/plain"}, 403),
        ("POST", "/data", "null", TOKEN, 403),
        ("GET", "/", ALLOWED, {}, 200),  # only the transports are for others
        ("GET", "/healthz", ALLOWED, {}, 200),
        ("OPTIONS", "/healthz", ALLOWED, PREFLIGHT, 200),
        ("GET", "/data", None, {}, 200),
    ],
)
def test_nothing_is_said_to_others(
    server: Server,
    method: str,
    path: str,
    origin: str | None,
    headers: dict[str, str],
    status: int,
) -> None:
    before = server.cursor
    if origin is not None:
        headers = {"Origin": origin, **headers}
    body = b"{}" if method == "POST" else None
    response = server.http.request(method, path, body, headers=headers)
    assert (response.status, cors(response)) == (status, {})
    assert server.cursor == before
    if path in ("/data", "/update"):  # a cache must not give this response to the allowed page
        assert response.headers["Vary"] == "Origin"


def test_without_the_option_there_is_no_word_of_it(start: Start) -> None:
    for program in ("serve.py", "servers/threads.py"):
        server = start(program, *OPTIONS)
        for headers in ({"Origin": ALLOWED}, {"Origin": server.url}):
            response = server.http.get("/data", headers=headers)
            assert cors(response) == {}
            assert "Vary" not in response.headers


#: A page elsewhere: does one thing of each kind, and keeps what comes of it in `window`.
PAGE = b"<!doctype html><title>elsewhere</title><script src=script></script>"
SCRIPT = """
window.got = {};
const keep = (name) => (value) => (got[name] ??= value);
const attempt = (name, promise) => promise.then(keep(name), () => keep(name)("refused"));
const server = "%s";
const stream = new EventSource(`${server}/update?carry=1`);
stream.onmessage = ({ data }) => { keep("sse")(JSON.parse(data).value); stream.close(); };
stream.onerror = () => { keep("sse")("refused"); stream.close(); };
const socket = new WebSocket(`${server.replace("http", "ws")}/update?carry=1`);
socket.onmessage = ({ data }) => keep("websocket")(JSON.parse(data).value);
socket.onclose = () => keep("websocket")("refused");
const json = async (path, options) => (await fetch(`${server}${path}`, options)).json();
const value = async (path, options) => (await json(path, options)).value;
attempt("poll", value("/data", { cache: "no-store" }));
attempt("longpoll", value("/update?carry=1"));
attempt("etag", fetch(`${server}/data`).then(async ({ headers }) => {
  const etag = headers.get("ETag");
  const request = { headers: { "If-None-Match": etag }, cache: "no-store" };
  return (await fetch(`${server}/data`, request)).status;
}));
attempt("error", json("/update?after=nonsense").then(({ error }) => error.slice(0, 6)));
const post = (type) => json("/data", {
  method: "POST", body: '{"line": "from elsewhere"}',
  headers: { "Content-Type": type, Authorization: "Bearer s3cret" },
});
window.publish = (type) => attempt(type, post(type).then(({ cursor }) => cursor));
window.plain = () => attempt("plain", fetch(`${server}/data`, { method: "POST", body: "{}" })
  .then(({ status }) => status));
"""


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """A page of another origin, and where its script finds the server."""
    address: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_page = self.path == "/"
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if is_page else "text/javascript")
            self.end_headers()
            self.wfile.write(PAGE if is_page else (SCRIPT % address[-1]).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{page.server_port}", address
        page.shutdown()


@pytest.mark.parametrize("program", ["serve.py", "servers/threads.py"])
def test_a_page_elsewhere_uses_every_transport_and_publishes(
    start: Start, browser: Browser, elsewhere: tuple[str, list[str]], program: str
) -> None:
    origin, address = elsewhere
    server = start(program, *OPTIONS, "--allow-origin", origin)
    server.http.post("/data", {"line": "one"}, headers=TOKEN)
    address.append(server.url)
    browser.open(origin)
    names = ("sse", "websocket", "poll", "longpoll", "etag", "error")

    def got() -> dict[str, object]:
        return browser.execute_script("return got")  # type: ignore[no-any-return]

    eventually(lambda: set(names) <= got().keys())
    value = {"line": "one"}
    assert got() == dict(zip(names, [value] * 4 + [304, "after:"], strict=True))
    for kind in ("application/json", "text/plain"):
        browser.execute_script("publish(arguments[0])", kind)
        eventually(lambda kind=kind: kind in got())  # type: ignore[misc]
        assert got()[kind] == server.cursor
    assert server.http.get("/data").json["value"] == {"line": "from elsewhere"}


def test_a_page_that_is_not_allowed_gets_and_publishes_nothing(
    start: Start, chromium: Browser, elsewhere: tuple[str, list[str]]
) -> None:
    browser, (origin, address) = chromium, elsewhere
    server = start("serve.py", "--source", "http", "--allow-origin", ALLOWED)
    address.append(server.url)
    browser.open(origin)
    browser.execute_script("publish('application/json'); publish('text/plain'); plain()")
    names = {"sse", "websocket", "poll", "longpoll", "etag", "error", "plain",
             "application/json", "text/plain"}  # fmt: skip

    def got() -> dict[str, object]:
        return browser.execute_script("return got")  # type: ignore[no-any-return]

    eventually(lambda: names <= got().keys())
    assert got() == dict.fromkeys(names, "refused")
    assert any("blocked by CORS policy" in complaint for complaint in browser.complaints())
    assert server.http.get("/data").json["value"] == {}
    browser.get("about:blank")
