"""nginx in front of processes that share a Redis, with faults while events are published."""

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.servers import free_port, nginx, nginx_configuration
from pushlab import Push
from pushlab.feed import NotPublished
from tests.clients import HANG_TIMEOUT, Http, open_websocket
from tests.conftest import Program, eventually
from tests.redis_server import RedisServer
from tests.test_own_app import WORKER, OwnApp

APP = """
import os
from flask import Flask
from pushlab import Push

app = Flask(__name__)
push = Push(app, redis=os.environ["REDIS"])

@app.get("/")
def page():
    return ""

@push.topic("log/<name>", keep=10000)
def log(name):
    pass

@push.topic("state/<name>")
def state(name):
    pass
"""

EVENTS = 300


class Cluster:
    """Redis, gunicorn with two workers, nginx, and a publisher."""

    def __init__(self, folder: Path) -> None:
        self.redis = RedisServer(folder)
        command = (*WORKER, "--workers", "2", "app:app")
        self.gunicorn = OwnApp(folder, APP, command, REDIS=self.redis.url).until_ready()
        self.port = free_port()
        text = nginx_configuration(listen=self.port, server=self.gunicorn.port)
        text = text.replace("location = /update", "location = /push/update")
        (folder / "nginx.conf").write_text(text)
        self.nginx = Program("-p", str(folder), "-c", "nginx.conf", command=[str(nginx())])
        eventually(lambda: self.responds("/"))
        self.publisher = Push.publisher(self.redis.url)

    def workers(self) -> list[psutil.Process]:
        return list(psutil.Process(self.gunicorn.process.pid).children())

    def responds(self, path: str) -> bool:
        """Tell whether a GET gets 200."""
        with suppress(OSError):
            return Http("127.0.0.1", self.port).get(path).status == 200
        return False

    def stop(self) -> None:
        self.nginx.stop()
        self.gunicorn.stop()
        self.redis.process.send_signal(signal.SIGCONT)
        self.redis.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    yield found
    found.stop()


class Browser:
    """Follows a topic; comes back with its cursor whenever it is cut off."""

    def __init__(self, cluster: Cluster, transport: str, topic: str) -> None:
        self.cluster = cluster
        self.transport = transport
        self.path = f"/push/update?topic={topic}&carry=1&after="
        self.after = ""
        self.numbers: list[int] = []
        self.cursors: list[str] = []
        self.resets = 0
        self.is_stopped = False
        self.follow: Callable[[], None] = getattr(self, f"_{transport}")
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.is_stopped:
            with suppress(Exception):  # whatever has cut it off, it comes back
                self.follow()
            time.sleep(0.02)

    def _received(self, message: dict[str, Any]) -> None:
        self.after = message["cursor"]
        if message.get("reset"):
            self.resets += 1
        elif "value" in message:
            self.numbers.append(message["value"]["n"])
            self.cursors.append(message["cursor"])

    def _websocket(self) -> None:
        url = f"ws://127.0.0.1:{self.cluster.port}{self.path}{self.after}"
        with open_websocket(url) as socket:
            while not self.is_stopped:
                self._received(json.loads(socket.recv(HANG_TIMEOUT)))

    def _longpoll(self) -> None:
        http = Http("127.0.0.1", self.cluster.port)
        while not self.is_stopped:
            response = http.get(f"{self.path}{self.after}&timeout=5")
            assert response.status in (200, 204)
            for message in response.json if response.status == 200 else ():
                self._received(message)

    def _sse(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.cluster.port, timeout=HANG_TIMEOUT)
        with closing(connection):
            headers = {"Accept": "text/event-stream"}
            connection.request("GET", f"{self.path}{self.after}", headers=headers)
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    self._received(json.loads(line[6:]))
                if self.is_stopped:
                    return


def kill_a_worker(cluster: Cluster) -> None:
    workers = cluster.workers()
    if len(workers) == 2:
        random.choice(workers).kill()


def cut_redis(cluster: Cluster) -> None:
    cluster.redis.cut()


def pause_redis(cluster: Cluster) -> None:
    cluster.redis.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    cluster.redis.process.send_signal(signal.SIGCONT)


def restart_redis(cluster: Cluster) -> None:
    cluster.redis.stop()
    cluster.redis.start()


def reload_nginx(cluster: Cluster) -> None:
    cluster.nginx.process.send_signal(signal.SIGHUP)


def restart_workers(cluster: Cluster) -> None:
    before = {worker.pid for worker in cluster.workers()}
    cluster.gunicorn.process.send_signal(signal.SIGHUP)
    eventually(lambda: before.isdisjoint({worker.pid for worker in cluster.workers()}))


FAULTS = (kill_a_worker, cut_redis, pause_redis, restart_redis, reload_nginx, restart_workers)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_event_arrives_once_in_order(
    cluster: Cluster, fault: Callable[[Cluster], None]
) -> None:
    log, state = f"log/{fault.__name__}", f"state/{fault.__name__}"
    eventually(lambda: cluster.responds(f"/push/data?topic={log}"))
    browsers = [
        Browser(cluster, transport, topic)
        for transport in ("websocket", "sse", "longpoll")
        for topic in (log, log, state)
    ]

    def harm() -> None:
        for _ in range(2):
            time.sleep(0.5)
            fault(cluster)

    harming = threading.Thread(target=harm)
    harming.start()
    number = 0
    while number < EVENTS or harming.is_alive():
        for topic in (log, state):
            deadline = time.monotonic() + HANG_TIMEOUT
            while True:
                try:
                    cluster.publisher.publish(topic, {"n": number})
                    break
                except NotPublished:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
        number += 1
        time.sleep(0.002)
    try:
        for browser in browsers:
            eventually(lambda browser=browser: browser.numbers[-1:] == [number - 1])  # type: ignore[misc]
    finally:
        for browser in browsers:
            browser.is_stopped = True
        cluster.publisher.publish(log, {"n": number})
        cluster.publisher.publish(state, {"n": number})
        for browser in browsers:
            browser.thread.join(HANG_TIMEOUT)
    for browser in browsers:
        assert browser.resets == 0, browser.transport
        assert browser.cursors == list(dict.fromkeys(browser.cursors)), "none comes twice"
        assert browser.numbers == sorted(browser.numbers), "a sequence never goes back"
        if "log/" in browser.path:
            # A publisher that got no response has published again.
            assert list(dict.fromkeys(browser.numbers))[:number] == list(range(number))


class Follower(threading.Thread):
    """Follows the lab through nginx, and comes back with its cursor."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.url = f"ws://127.0.0.1:{port}/update"
        self.cursors: list[str] = []
        self.is_stopped = False
        self.start()

    def run(self) -> None:
        while not self.is_stopped:
            after = f"?after={self.cursors[-1]}" if self.cursors else ""
            with suppress(Exception), open_websocket(self.url + after) as socket:
                while not self.is_stopped:
                    self.cursors.append(json.loads(socket.recv(HANG_TIMEOUT))["cursor"])
            time.sleep(0.02)


def test_the_cluster_of_the_makefile(tmp_path: Path) -> None:
    """All of it starts, is restarted one after another without a reading less, and ends."""
    ports = [free_port() for _ in range(3)]
    environment = {"CLUSTER_PORTS": " ".join(map(str, ports)), "CLUSTER_FOLDER": str(tmp_path)}
    options = ("--source", "clock", "--pace", "0.25")
    cluster = Program("servers/cluster.py", *options, environment=environment)
    followers: list[Follower] = []

    try:
        eventually(lambda: any("4 processes" in line for line in cluster.out))
        followers = [Follower(ports[0]) for _ in range(4)]
        eventually(lambda: all(each.cursors for each in followers))
        [supervisor] = [each for each in cluster.children if len(each.children()) == 4]
        before = set(supervisor.children())
        cluster.process.send_signal(signal.SIGHUP)
        eventually(lambda: not before & set(supervisor.children()))
        count = max(len(each.cursors) for each in followers)
        eventually(lambda: all(len(each.cursors) > count for each in followers))
    finally:
        for each in followers:
            each.is_stopped = True
        everything = cluster.children
        cluster.process.send_signal(signal.SIGINT)
        status = cluster.wait()
    assert status == 0
    assert "Traceback" not in cluster.log
    assert [each for each in everything if each.is_running()] == []
    for each in followers:
        epochs, numbers = zip(*(cursor.split("-") for cursor in each.cursors), strict=True)
        assert len(set(epochs)) == 1
        assert list(numbers) == sorted(set(numbers), key=int), "none comes twice or goes back"
