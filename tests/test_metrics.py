"""/metrics of real servers: with one process, and with two that share a Redis."""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import quote

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import TimeoutError

from bench.servers import free_port
from pushlab import counts, metrics
from pushlab.counts import Histogram
from pushlab.feed import NotPublished
from pushlab.metrics import Metrics
from pushlab.redis_feed import RedisFeeds
from tests.clients import HANG_TIMEOUT, Http, RawSocket, Response
from tests.conftest import ROOT, Program, Server, Start, eventually, until_same
from tests.redis_server import RedisServer
from tests.test_own_app import FLASK, GUNICORN, WORKER, OwnApp, hosted, running

APP = """
import os
from flask import Flask, abort, request
from pushlab import Push
from pushlab.metrics import Metrics

app = Flask(__name__)
push = Push(app, redis=os.environ.get("REDIS"))
metrics = Metrics(push)

@app.get("/")
def page():
    return str(os.getpid())

@app.get("/metrics")
def show_metrics():
    return metrics.response()

@app.get("/healthz")
def health():
    problem = push.problem
    return ({"error": problem}, 503) if problem else {"status": "ok"}

@app.post("/publish/<path:topic>")
def publish(topic):
    return push.publish(topic, request.get_json(force=True)).cursor

@push.topic("orders/<int:user>", keep=3)
def orders(user):
    if user == 403:
        abort(403)

@push.topic("stock/<sku>")
def stock(sku):
    pass
"""
SERVERS = {**hosted(APP), "flask run": (APP, FLASK)}

Samples = Mapping[str, float]
NONE: Samples = MappingProxyType({})

ORDERS = 'topic="orders/<int:user>"'
STOCK = 'topic="stock/<sku>"'


def read(response: Response) -> dict[str, float]:
    """Return the samples by name and labels, as they are written but in order."""
    assert response.status == 200, response
    return {
        f"{sample.name}{{{labels}}}" if labels else sample.name: sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
        for labels in [",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))]
    }


def scrape(server: Server) -> dict[str, float]:
    return read(server.http.get("/metrics"))


def until(server: Server, expected: Samples) -> None:
    """Wait until these samples are as expected."""

    def both() -> tuple[Any, Any]:
        found = scrape(server)
        return {name: found.get(name) for name in expected}, dict(expected)

    until_same(both)


def subscribers(topic: str, number: int, *transports: str) -> Samples:
    return {
        f'pushlab_subscribers{{{topic},transport="{each}"}}': number
        for each in transports or ("longpoll", "sse", "websocket")
    }


def publish(server: Server, topic: str, number: int) -> str:
    response = server.http.post(f"/publish/{topic}", {"n": number})
    assert response.status == 200, response
    return response.body.decode()


def follow(server: Server, topic: str, after: str = "") -> RawSocket:
    return server.websocket(f"/push/update?topic={topic}&after={after}")


@pytest.fixture(params=SERVERS)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OwnApp]:
    with running(tmp_path, *SERVERS[request.param]) as server:
        yield server


def test_every_transport_is_counted(app: OwnApp) -> None:
    """Held by the hub, or waiting in a thread or greenlet."""
    cursor = publish(app, "orders/7", 0)
    path = f"/push/update?topic=orders/7&after={cursor}"
    with ExitStack() as stack:
        socket = stack.enter_context(follow(app, "orders/7", cursor))
        stream = stack.enter_context(app.send_get(path, "Accept: text/event-stream"))
        poll = stack.enter_context(app.send_get(path))
        until(app, {**subscribers(ORDERS, 1), **subscribers(STOCK, 0)})
        publish(app, "orders/7", 1)
        message = json.dumps(socket.json(), separators=(",", ":"))
        assert poll.recv(12) == b"HTTP/1.1 200"
        received = b""
        while b"-2\n" not in received:
            received += stream.recv(4096)
        until(app, {
            **{
                f'pushlab_notifications_total{{{ORDERS},transport="{each}"}}': 1
                for each in ("longpoll", "sse", "websocket")
            },
            **subscribers(ORDERS, 1, "sse", "websocket"),
            **subscribers(ORDERS, 0, "longpoll"),
        })  # fmt: skip
        found = scrape(app)
        for transport in ("longpoll", "sse", "websocket"):
            name = f'pushlab_sent_bytes_total{{transport="{transport}"}}'
            assert found[name] >= len(message), "beside it, pings and the like"
        assert found["pushlab_publish_to_last_write_seconds_count"] >= 1
        assert found["pushlab_publish_to_last_write_seconds_sum"] < HANG_TIMEOUT
    until(app, subscribers(ORDERS, 0))
    names = "".join(scrape(app))
    assert "orders/7" not in names, "never a topic itself"
    assert "redis" not in names


#: What a request does, and by how much samples grow with it.
GROWTH: dict[str, tuple[Callable[[OwnApp, str], Any], Samples]] = {
    "a poll finds the newest of four": (
        lambda app, after: app.http.get(f"/push/update?topic=stock/tea&after={after}"),
        {
            f'pushlab_notifications_total{{{STOCK},transport="longpoll"}}': 1,
            f'pushlab_coalesced_total{{{STOCK},transport="longpoll"}}': 2,
        },
    ),
    "a WebSocket, too": (
        lambda app, after: follow(app, "stock/tea", after).close(),
        {
            f'pushlab_notifications_total{{{STOCK},transport="websocket"}}': 1,
            f'pushlab_coalesced_total{{{STOCK},transport="websocket"}}': 2,
        },
    ),
    "a log does not keep what a poll lacks": (
        lambda app, after: app.http.get("/push/update?topic=orders/7&after=foreign-1"),
        {
            f'pushlab_notifications_total{{{ORDERS},transport="longpoll"}}': 1,
            f'pushlab_resets_total{{{ORDERS},transport="longpoll"}}': 1,
        },
    ),
    "a short poll": (
        lambda app, after: app.http.get("/push/data?topic=stock/tea"),
        {f'pushlab_notifications_total{{{STOCK},transport="poll"}}': 1},
    ),
    "no topic": (
        lambda app, after: app.http.get("/push/update?topic=tea"),
        {'pushlab_refused_total{reason="not_found"}': 1},
    ),
    "the topic's function refuses": (
        lambda app, after: follow(app, "orders/403").close(),
        {'pushlab_refused_total{reason="forbidden"}': 1},
    ),
    "a parameter": (
        lambda app, after: app.http.get("/push/update?topic=stock/tea&carry=2"),
        {'pushlab_refused_total{reason="bad_request"}': 1},
    ),
    "an Origin": (
        lambda app, after: app.websocket(
            "/push/update?topic=stock/tea", changes={"Origin": "https://elsewhere.example"}
        ).close(),
        {'pushlab_refused_total{reason="forbidden"}': 1},
    ),
}


def test_what_each_request_adds(app: OwnApp) -> None:
    publish(app, "orders/7", 0)
    after, *_ = (publish(app, "stock/tea", number) for number in range(4))
    for what, (do, growth) in GROWTH.items():
        before = scrape(app)
        do(app, after)

        def grown(before: Samples = before) -> dict[str, float]:
            return {
                name: value - before.get(name, 0)
                for name, value in scrape(app).items()
                if name.startswith("pushlab_") and "_bytes_" not in name and "_seconds" not in name
                if value != before.get(name, 0) and "subscribers" not in name
            }

        expected = {what: growth}
        until_same(lambda name=what, grown=grown, all=expected: ({name: grown()}, all))  # type: ignore[misc]


def test_a_silent_browser_is_dropped_and_counted(tmp_path: Path) -> None:
    source, command = hosted(APP)["gevent"]
    often = "app = Flask(__name__)\napp.config['PUSHLAB_PING_INTERVAL'] = 0.1\n"
    source = source.replace("app = Flask(__name__)\n", often)
    with running(tmp_path, source, command) as app, follow(app, "stock/tea") as silent:
        silent.json()
        until(app, {'pushlab_dropped_total{reason="silent",transport="websocket"}': 1})


# Several processes.


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


@contextmanager
def two_workers(folder: Path, redis: RedisServer, *options: str) -> Iterator[OwnApp]:
    # A worker that a test stops is not killed for that.
    command = (*WORKER, "--workers", "2", "--timeout", "0", *options, "app:app")
    with running(folder, APP, command, REDIS=redis.url) as app:
        yield app


def workers(app: Server) -> set[int]:
    return {each.pid for each in app.children}


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_any_scrape_says_the_truth_for_all(
    tmp_path: Path, redis: RedisServer, options: tuple[str, ...]
) -> None:
    with two_workers(tmp_path, redis, *options) as app, ExitStack() as stack:
        eventually(lambda: len(workers(app)) == 2)
        one, other = sorted(workers(app))

        def open_in(worker: int) -> RawSocket:
            """Have a worker's sockets: the other one is stopped meanwhile."""
            [paused] = workers(app) - {worker}
            psutil.Process(paused).suspend()
            try:
                return stack.enter_context(follow(app, "orders/7"))
            finally:
                psutil.Process(paused).resume()

        opened = [open_in(one), open_in(other), open_in(other)]
        scraped_in: set[int] = set()
        while scraped_in != workers(app):
            until(app, {**subscribers(ORDERS, 3, "websocket"), "pushlab_redis_connected": 1})
            scraped_in.add(int(app.http.get("/").body))
        for each in opened:
            each.json()
        before = scrape(app)
        publish(app, "orders/7", 1)
        for each in opened:
            each.json()
        name = f'pushlab_notifications_total{{{ORDERS},transport="websocket"}}'
        until(app, {name: before[name] + 3})
        eventually(lambda: scrape(app)["pushlab_redis_lag_seconds_count"])
        psutil.Process(other).kill()
        until(app, subscribers(ORDERS, 1, "websocket"))
        total = eventually(lambda: scrape(app).get(name))
        assert total >= before[name] + 3, "a total never goes back"
        redis.stop()
        assert scrape(app) == {"pushlab_redis_connected": 0}
        response = eventually(lambda: (it := app.http.get("/healthz")).status == 503 and it)
        assert "Redis" in response.json["error"]
        redis.start()
        until(app, {**subscribers(ORDERS, 1, "websocket"), "pushlab_redis_connected": 1})
        total = eventually(lambda: scrape(app).get(name))
        assert total >= before[name] + 3
        eventually(lambda: app.responds("/healthz") and app.http.get("/healthz").status == 200)


@pytest.fixture
def sharing(redis: RedisServer) -> tuple[RedisFeeds, Metrics]:
    shared = RedisFeeds(redis.url)
    return shared, Metrics(shared.feed("orders/7", 3))


def test_what_redis_has_added_is_not_added_again(
    sharing: tuple[RedisFeeds, Metrics], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its response was lost."""
    shared, own = sharing
    teapots = "refused", HTTPStatus.IM_A_TEAPOT.name.lower()
    counts.refuse(HTTPStatus.IM_A_TEAPOT)
    before = own._share()[0][teapots]
    run = shared._connections.run

    def lose(*arguments: Any) -> NoReturn:
        run(*arguments)
        raise TimeoutError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(shared._connections, "run", lose)
        for _ in range(2):
            counts.refuse(HTTPStatus.IM_A_TEAPOT)
            with pytest.raises(NotPublished):
                own._share()
    assert own._share()[0][teapots] == before + 2
    assert own._share()[0][teapots] == before + 2


def test_scrapes_of_a_redis_that_hangs_wait_once(
    sharing: tuple[RedisFeeds, Metrics], redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads on in Redis would be behind all of them."""
    shared, own = sharing
    called: list[str] = []
    sum_up = shared.sum_up

    def counting(*arguments: Any) -> Any:
        called.append("sum up")
        return sum_up(*arguments)

    def share() -> None:
        called.append("share")
        with pytest.raises(NotPublished):
            own._share()

    monkeypatch.setattr(shared, "sum_up", counting)
    redis.process.send_signal(signal.SIGSTOP)
    threads = [threading.Thread(target=share) for _ in range(5)]
    with own._sharing.get():
        for thread in threads:
            thread.start()
        eventually(lambda: called.count("share") == 5)
    for thread in threads:
        thread.join()
    redis.process.send_signal(signal.SIGCONT)
    assert called.count("sum up") == 1


def test_the_lab_in_two_processes(redis: RedisServer, start: Start) -> None:
    server = start("serve.py", "--workers", "2", "--redis", redis.url, "--source", "clock")
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.websocket())
        for _ in range(4):
            until(server, {
                'pushlab_subscribers{topic="",transport="websocket"}': 8,
                "pushlab_redis_connected": 1,
            })  # fmt: skip
    until(server, {'pushlab_subscribers{topic="",transport="websocket"}': 0})
    redis.stop()
    assert scrape(server) == {"pushlab_redis_connected": 0}
    eventually(lambda: server.http.get("/healthz").status == 503)


def test_without_redis_several_processes_have_no_metrics(tmp_path: Path) -> None:
    command = (*GUNICORN, "--workers", "2", "--threads", "4", "app:app")
    with running(tmp_path, APP, command) as app:
        response = app.http.get("/metrics")
        assert response.status == 503
        assert "share a Redis" in response.json["error"]


def test_without_prometheus_client_a_sentence_says_so(tmp_path: Path) -> None:
    source, command = hosted(APP)["threads"]
    missing = "import sys\nsys.modules['prometheus_client'] = None\n"
    with running(tmp_path, missing + source, command) as app:
        response = app.http.get("/metrics")
        assert response.status == 501
        assert "pip install 'pushlab[metrics]'" in response.json["error"]
        assert "Traceback" not in app.log


def test_durations_at_the_same_time_are_both_counted() -> None:
    """Those of another feed, in another thread."""
    histogram, adding, added = Histogram(), threading.Event(), threading.Event()

    class Slow(float):
        def __radd__(self, other: float) -> float:
            adding.set()
            added.wait(0.3)
            return other + float(self)

    def observe_another() -> None:
        adding.wait()
        histogram.observe(1.0)
        added.set()

    thread = threading.Thread(target=observe_another)
    thread.start()
    histogram.observe(Slow(2.0))
    thread.join()
    assert (histogram.sum, sum(histogram.buckets)) == (3.0, 2)


def test_a_bucket_has_its_bound() -> None:
    histogram = Histogram()
    for seconds in (-1, 0.0005, 0.0006, 10.0, 11.0):
        histogram.observe(seconds)
    assert [(i, n) for i, n in enumerate(histogram.buckets) if n] == [
        (0, 2), (1, 1), (len(counts.BOUNDS) - 1, 1), (len(counts.BOUNDS), 1),
    ]  # fmt: skip
    assert histogram.sum == pytest.approx(21.0011)


# The dashboard.

DASHBOARD = json.loads((ROOT / "servers" / "grafana.json").read_text())
QUERIES = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Http]:
    """Run Prometheus, which scrapes a port often."""
    port = free_port()
    static = {"static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    scraping = {"job_name": "pushlab", "scrape_interval": "500ms", "scrape_timeout": "500ms"}
    configuration = {"scrape_configs": [{**scraping, **static}]}
    (folder / "prometheus.yml").write_text(json.dumps(configuration))  # which is YAML, too
    program = Program(
        "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error",
        f"--web.listen-address=127.0.0.1:{port}", command=["prometheus"], folder=folder,
    )  # fmt: skip
    http = Http("127.0.0.1", port)

    def is_ready() -> bool:
        assert program.process.poll() is None, program.log
        with suppress(OSError):
            return http.get("/-/ready").status == 200
        return False

    try:
        eventually(is_ready)
        yield http
    finally:
        program.stop()


def test_the_dashboard_shows_what_prometheus_has(
    tmp_path: Path, redis: RedisServer, start: Start
) -> None:
    options = ("--workers", "2", "--redis", redis.url, "--source", "clock", "--pace", "0.05")
    server = start("serve.py", *options)
    with prometheus(tmp_path, server.port) as http, server.websocket() as browser:
        browser.json()
        server.http.get("/update?after=x")
        for target in QUERIES:
            expression = target["expr"].replace("$__rate_interval", "1m")
            path = f"/api/v1/query?query={quote(expression)}"

            def found(path: str = path) -> list[dict[str, Any]]:
                response = http.get(path)
                assert response.status == 200, response.body
                result = response.json["data"]["result"]
                return [each for each in result if each["value"][1] != "NaN"]

            for each in eventually(found):
                for name in re.findall("{{(.+?)}}", target["legendFormat"]):
                    assert name == "topic" or name in each["metric"], target


def test_the_dashboard_has_every_metric() -> None:
    shown = {name for each in QUERIES for name in re.findall("pushlab_[a-z_]+", each["expr"])}
    names = {f"pushlab_{name}" for name in metrics.GAUGES}
    names |= {f"pushlab_{name}_total" for name in metrics.COUNTERS}
    names |= {f"pushlab_{name}_seconds_bucket" for name, _ in metrics.DURATIONS.values()}
    assert shown == names | {"pushlab_redis_connected"}


def test_the_reference_has_every_metric() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.rst").read_text()
    for name, (labels, _) in {**metrics.GAUGES, **metrics.COUNTERS}.items():
        suffix = "_total" if name in metrics.COUNTERS else ""
        assert f"``pushlab_{name}{suffix}``" in page
        assert all(f"``{label}``" in page for label in labels.split())
    for name, _ in metrics.DURATIONS.values():
        assert f"``pushlab_{name}_seconds``" in page


#: As with `gunicorn --preload`: all is made, then comes the fork, then monkey patching.
PRELOADED = """
import os, signal, sys, threading
from pushlab.metrics import Metrics
from pushlab.redis_feed import RedisFeeds

url, redis = sys.argv[1], int(sys.argv[2])
shared = RedisFeeds(url)
feed = shared.feed("stock", 1)
metrics = Metrics(feed)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
from gevent import monkey
monkey.patch_all()
import gevent
feed.load()
os.kill(redis, signal.SIGSTOP)  # who asks it waits
waiting = [gevent.spawn(metrics._read) for _ in range(2)]
gevent.sleep(0.1)
os.kill(redis, signal.SIGCONT)
gevent.joinall(waiting, timeout=60, raise_error=True)
assert all(each.ready() for each in waiting)
os._exit(0)
"""


def test_what_was_made_before_patching_stops_no_greenlet(redis: RedisServer) -> None:
    arguments = (redis.url, str(redis.process.pid))
    done = subprocess.run(
        [sys.executable, "-c", PRELOADED, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG_TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # gevent warns of patching late, as is meant here
