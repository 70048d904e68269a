"""python examples/threads.py: Flask-Threaded-Sockets' echo, on native threads, without gevent.

What changed: it runs on today's Flask, and long messages arrive whole. Ordinary blocking code runs
beside the WebSocket, in a thread of its own, and the echo continues. On gevent it continues while
another greenlet sleeps, but not while one computes: `python examples/on_gevent.py threads`.
"""

if __name__ == "__main__":
    import on_threads  # nothing is patched: code that waits blocks only its own thread

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

from flask import Flask, abort, render_template
from flask.typing import ResponseReturnValue

from pushlab.sockets import Sockets
from pushlab.websocket.connection import Connection
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
sockets = Sockets(app)


@sockets.route("/echo")
def echo(socket: Connection) -> None:
    """Send each message back, whatever other threads do."""
    while (message := socket.receive()) is not None:
        socket.send(message)


# Two million steps, all of them in C.
COUNT = "WITH a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a WHERE n < 2e6) SELECT max(n) FROM a"


def query() -> None:
    """Run a query that takes a while."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(COUNT).fetchone()


JOBS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(0.5),
    "query": query,
    "compute": lambda: all(True for _ in range(5_000_000)),
}


@app.post("/jobs/<job>")
def work(job: str) -> ResponseReturnValue:
    """Do a job, and return how many seconds it took."""
    if job not in JOBS:
        abort(404, f"there is no job {job!r}, only {', '.join(JOBS)}")
    began = time.perf_counter()
    JOBS[job]()
    return {"seconds": time.perf_counter() - began}


@app.get("/")
def page() -> str:
    """Return a page that starts jobs and measures the echo."""
    return render_template("threads.html", jobs=JOBS)


if __name__ == "__main__":
    on_threads.serve(app)
