"""The page in Chromium on nginx, two processes and Redis, while each of them fails."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.browsing import Browser
from tests.conftest import eventually
from tests.hosting import Cluster
from tests.test_redis import restart_empty

CURSORS = "return [...document.querySelectorAll('[data-cursor]')].map((it) => it.dataset.cursor)"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, "--source", "clock", "--pace", "0.25")
    yield cluster
    cluster.redis.process.send_signal(signal.SIGCONT)
    assert cluster.stop() == 0, cluster.log
    assert "Traceback" not in cluster.log, cluster.log


def workers(cluster: Cluster) -> set[psutil.Process]:
    return set(psutil.Process(cluster.process.pid).children())


def problem(browser: Browser) -> str:
    """What the page says of the source, in its live region."""
    return str(browser.find("[data-field=source][role=status]").text)


def until_it_stands_still(browser: Browser) -> None:
    """Wait until the page says so, with all lanes connected."""
    eventually(lambda: "stands still" in problem(browser))
    browser.until_live()


def kill_each_worker(cluster: Cluster, browser: Browser) -> None:
    for worker in workers(cluster):
        worker.kill()
        eventually(lambda worker=worker: len(workers(cluster) - {worker}) == 2)  # type: ignore[misc]


def restart_workers(cluster: Cluster, browser: Browser) -> None:
    before = workers(cluster)
    cluster.process.send_signal(signal.SIGHUP)
    eventually(lambda: not before & workers(cluster))


def reload_nginx(cluster: Cluster, browser: Browser) -> None:
    before = set(cluster.nginx.children)
    cluster.nginx.process.send_signal(signal.SIGHUP)
    eventually(lambda: set(cluster.nginx.children) - before)


def cut_redis(cluster: Cluster, browser: Browser) -> None:
    cluster.redis.cut()


def stop_and_continue_redis(cluster: Cluster, browser: Browser) -> None:
    cluster.redis.process.send_signal(signal.SIGSTOP)
    until_it_stands_still(browser)
    cluster.redis.process.send_signal(signal.SIGCONT)


def restart_redis(cluster: Cluster, browser: Browser) -> None:
    cluster.redis.stop()
    until_it_stands_still(browser)
    cluster.redis.start()


def restart_redis_empty(cluster: Cluster, browser: Browser) -> None:
    cluster.redis.stop()
    until_it_stands_still(browser)
    restart_empty(cluster.redis)


FAULTS: tuple[Callable[[Cluster, Browser], None], ...] = (
    kill_each_worker, restart_workers, reload_nginx, cut_redis,
    stop_and_continue_redis, restart_redis, restart_redis_empty,
)  # fmt: skip


def test_the_page_survives_each_fault(cluster: Cluster, browser: Browser) -> None:
    browser.visit(cluster)
    for fault in FAULTS:
        fault(cluster, browser)
        eventually(lambda: problem(browser) == "")
        eventually(lambda: cluster.http.get("/data").status == 200)
        epoch, _, number = cluster.cursor.rpartition("-")

        def goes_on(cursor: str, epoch: str = epoch, number: int = int(number)) -> bool:
            return cursor.startswith(f"{epoch}-") and int(cursor.rpartition("-")[2]) > number

        eventually(lambda goes_on=goes_on: all(map(goes_on, browser.execute_script(CURSORS))))  # type: ignore[misc]
        browser.until_live()
        assert browser.lost == 0, fault.__name__
        assert browser.errors() == [], fault.__name__
