"""The schemas of docs/reference/schemas: what servers really send is validated against them."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from lab.instruments import COMMANDS
from lab.settings import Settings
from pushlab.feed import Feed
from tests.clients import UPGRADE, LabPage
from tests.conftest import ROOT, Server, Start, eventually
from tests.test_http import app_of
from tests.test_own_app import OwnApp, hosted, running
from tests.test_push import APP, JSON, TRANSPORTS, logged_in, publish
from tests.transports import CLIENTS

FOLDER = ROOT / "docs" / "reference" / "schemas"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def schema(name: str) -> Draft202012Validator:
    """Return what validates a message; schemas name each other by their files."""
    documents = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    resources = ((name, Resource.from_contents(each)) for name, each in documents.items())
    registry: Registry[Any] = Registry().with_resources(resources)
    return Draft202012Validator(documents[f"{name}.json"], registry=registry)


def check(name: str, message: Any) -> None:
    """Fail with every reason why the message is none of this kind."""
    assert [error.message for error in schema(name).iter_errors(message)] == [], (name, message)


def kind(message: Any) -> str:
    """Return the one kind of message that it is."""
    kinds = [name for name in ("reading", "signal", "reset") if schema(name).is_valid(message)]
    assert len(kinds) == 1, message
    return kinds[0]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_schema_and_is_shown(name: str) -> None:
    Draft202012Validator.check_schema(json.loads((FOLDER / f"{name}.json").read_text()))
    page = (ROOT / "docs" / "reference" / "urls.rst").read_text()
    assert f".. literalinclude:: schemas/{name}.json\n" in page


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reading", {"cursor": "8f3a91c2-41", "changed_at": 1.5, "value": {}, "extra": 1}),
        ("reading", {"cursor": "8f3a91c2-41", "changed_at": 1.5, "value": 1}),
        ("reading", {"cursor": "8f3a91c2-41", "changed_at": "now", "value": {}}),
        ("reading", {"cursor": "8f3a91c2-41", "value": {}}),
        ("signal", {"cursor": "41"}),
        ("signal", {"cursor": "8f3a91c2-41", "value": {}}),
        ("signal", {"cursor": "8f3a91c2-41", "reset": True}),
        ("reset", {"cursor": "8f3a91c2-41", "reset": False}),
        ("update", []),
        ("update", {"topic": "a", "cursor": "8f3a91c2-41"}),
        ("update", [{"cursor": "8f3a91c2-41"}]),
        ("error", {}),
        ("error", {"error": ""}),
        ("healthz", {"status": "ok"}),
        ("healthz", {"status": "ok", "cursor": "8f3a91c2-41", "error": "and not ok"}),
        ("lab-server", {}),
        ("lab-server", {"reading": {"cursor": "x-1", "changed_at": 1.5, "value": {}}}),
        ("lab-page", {"do": "something else"}),
        ("lab-page", {"do": "watch", "lanes": ["no lane"]}),
    ],
)
def test_they_refuse_what_is_wrong(name: str, message: Any) -> None:
    assert not schema(name).is_valid(message)


# The lab.


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("transport", CLIENTS)
def test_what_each_transport_brings(server: Server, transport: str, carry: bool) -> None:
    after = server.publish({"text": "€", "list": [1, None, {"a": True}]})
    for known in (None, after):
        browser = CLIENTS[transport](server, after=known, carry=carry)
        if known:
            server.publish({})
        assert kind(browser.receive()) == ("reading" if carry else "signal")
        browser.close()


def test_what_a_publisher_gets(server: Server) -> None:
    response = server.http.post("/data", {"n": 1})
    assert response.status == 201
    check("signal", response.json)


ERRORS = [
    (400, "GET", "/update?after=no", {}, b""),
    (400, "GET", "/update?carry=2", {"Accept": "text/event-stream"}, b""),
    (400, "GET", "/update?after=no", UPGRADE, b""),
    (400, "GET", "/update", {**UPGRADE, "Sec-WebSocket-Key": "no"}, b""),
    (400, "POST", "/data", {}, b"[]"),
    (403, "GET", "/update", {**UPGRADE, "Origin": "https://evil.example"}, b""),
    (403, "POST", "/data", {"Origin": "https://evil.example"}, b"{}"),
    (404, "GET", "/nowhere", {}, b""),
    (404, "GET", "/nowhere", UPGRADE, b""),
    (405, "DELETE", "/data", {}, b""),
    (413, "POST", "/data", {}, b'{"text": "' + b"x" * 20_000 + b'"}'),
    (415, "POST", "/data", {"Content-Encoding": "gzip"}, b"{}"),
    (417, "GET", "/data", {"Expect": "something"}, b""),
    (421, "GET", "/data", {"Host": "evil.example"}, b""),
    (426, "GET", "/update", {**UPGRADE, "Sec-WebSocket-Version": "12"}, b""),
    (431, "GET", "/data", {"X-Long": "x" * 40_000}, b""),
]


@pytest.mark.parametrize(("status", "method", "path", "headers", "body"), ERRORS)
def test_every_error_is_of_one_form(
    server: Server, status: int, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    response = server.http.request(method, path, body or None, headers=headers)
    assert response.status == status
    check("error", response.json)


def test_health(start: Start) -> None:
    server = start("serve.py", "--source", "stdin")  # which ends at once
    unwell = eventually(
        lambda: (response := server.http.get("/healthz")).status == 503 and response
    )
    check("healthz", unwell.json)
    assert unwell.json["source"] == "ended"


def test_health_while_all_is_well_and_at_the_end(server: Server) -> None:
    well = server.http.get("/healthz")
    assert well.status == 200
    check("healthz", well.json)
    feed = Feed()
    client = app_of(feed, Settings()).test_client()
    feed.close()
    ending = client.get("/healthz")
    assert ending.status_code == 503
    check("healthz", ending.get_json())


def test_what_the_lab_and_its_page_say(server: Server, page: LabPage, lane: str) -> None:
    commands: list[dict[str, Any]] = [
        {"do": "watch", "lanes": [lane]},
        {"do": "clock", "sent": 12.5},
        {"do": "cut", "lane": lane},
        {"do": "change"},
        {"do": "burst"},
        {"do": "pace", "pace": "irregular"},
        {"do": "borrow", "pace": "irregular"},
        {"do": "give_back"},
    ]
    assert {each["do"] for each in commands} | {"freeze"} == set(COMMANDS)
    for command in commands[:1]:
        page.replies(json.dumps(command))
    assert server.http.get(f"/data?lane={lane}").status == 200
    eventually(lambda: page.clock() and page.exchanges.get(lane))
    for command in commands:
        check("lab-page", command)
        page.replies(json.dumps(command))
    page.errors('{"do": "nothing that there is"}')
    for message in page.received:
        check("lab-server", message)
    names = {name for message in page.received for name in message}
    assert names >= {"lab", "pace", "reading", "age", "meters", "clock", "error"}


def test_what_a_class_and_its_pages_say(start: Start) -> None:
    server = start("serve.py", "--class", "--host", "127.0.0.1")
    printed = eventually(lambda: [line for line in server.out if "?key=" in line])
    key = printed[0].strip().partition("?key=")[2]
    with LabPage(server.ws) as teacher, LabPage(server.ws) as student:
        commands: list[tuple[LabPage, dict[str, Any]]] = [
            (teacher, {"do": "teach", "key": key}),
            (teacher, {"do": "experiment", "id": "near"}),
            (student, {"do": "medians", "lanes": {"websocket": 1.5}}),
            (student, {"do": "result", "run": 1, "experiment": "near", "prediction": "same",
                       "value": 4, "lanes": {"poll": {"p50": 250.0}}}),
        ]  # fmt: skip
        for page, command in commands:
            check("lab-page", command)
            assert page.errors(json.dumps(command)) == []
        teacher.wait_for("class", lambda its: bool(its["results"]))
        if not any(message.get("experiment") for message in student.received):
            student.wait_for("experiment", bool)
        check("lab-page", {"do": "end"})
        teacher.do("end")
        student.wait_for("experiment", lambda its: its is None)
        for message in (*teacher.received, *student.received):
            check("lab-server", message)


# Push.


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnApp]:
    source, command = hosted(APP)["gevent"]
    with running(Path(tmp_path_factory.mktemp("app")), source, command) as server:
        yield server


@pytest.mark.parametrize("carry", [0, 1])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_push_sends(app: OwnApp, transport: str, carry: int) -> None:
    topics = [f"{kind}/{transport}{carry}" for kind in ("state", "log", "short")]
    publish(app, topics[1], {"n": 1}, {"n": 2})
    *_, newest = publish(app, topics[2], *({"n": n} for n in range(5)))
    with TRANSPORTS[transport](app, *topics, carry=carry) as browser:
        found = [kind(browser.next()) for _ in range(2)]
        assert found == ["signal", "reading" if carry else "signal"]
        assert kind(browser.until(newest)[-1]) == "reset"
        (newest,) = publish(app, topics[0], {"n": 6})
        assert kind(browser.until(newest)[-1]) == ("reading" if carry else "signal")


def test_the_array_of_a_long_poll(app: OwnApp) -> None:
    publish(app, "short/array", *({"n": n} for n in range(5)))
    publish(app, "log/array", {"n": 1}, {"n": 2})
    query = "topic=short/array&topic=log/array&topic=state/array"
    for carry in (0, 1):
        response = app.http.get(f"/push/update?{query}&carry={carry}")
        assert response.status == 200
        check("update", response.json)
    check("reading", app.http.get("/push/data?topic=log/array").json)


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}, UPGRADE])
@pytest.mark.parametrize(
    ("status", "query"),
    [
        (400, ""),
        (400, "?topic=state/a&after=no"),
        (400, "?topic=" + "&topic=".join(f"state/{n}" for n in range(33))),
        (401, "?topic=users/ann"),
        (403, "?topic=status/403"),
        (404, "?topic=nothing/of/this/name"),
    ],
)
def test_every_refusal_of_push(
    app: OwnApp, status: int, query: str, headers: dict[str, str]
) -> None:
    response = app.http.get(f"/push/update{query}", headers=headers)
    assert response.status == status
    check("error", response.json)


def test_what_a_disconnected_poll_gets(app: OwnApp) -> None:
    with TRANSPORTS["longpoll"](app, "state/ends", headers=logged_in(app, "eve")) as browser:
        check("signal", browser.next())
        eventually(lambda: app.http.get("/seen").json["count"].get("state/ends"))
        eventually(lambda: app.http.post("/disconnect/eve", {}, headers=JSON).body == b"1")
        response = browser.response()
        assert response.status == 401
        check("error", json.loads(response.read()))
