"""A gunicorn worker with our server in place of gevent's.

`gunicorn -c servers/gunicorn.conf.py serve:app` uses it. It hosts any WSGI app; of an app with
`app.extensions["pushlab"]` it also knows the settings, what to close at shutdown, and the meters.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any, ClassVar

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from pushlab import limits
from pushlab.feed import Feed
from pushlab.hosting import StartupError
from pushlab.hosting.gevent_server import Handler, Server
from pushlab.hosting.lifecycle import announce, hosting_of
from pushlab.hosting.settings import ServerSettings
from pushlab.hosting.socket_options import configure

_SEVERAL_WORKERS = (
    "gunicorn has several workers, each of which would have a feed of its own, so that browsers "
    "would miss what is published in another one: start it with --workers 1"
)


class GunicornHandler(Handler):
    """Our handler, with gunicorn's log of requests and its SCRIPT_NAME."""

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        environ["RAW_URI"] = self.path  # for the log
        # As gunicorn's other workers do; a path that is not below it is passed on as it is.
        prefix, path = os.environ.get("SCRIPT_NAME", "").rstrip("/"), environ["PATH_INFO"]
        if prefix and f"{path}/".startswith(f"{prefix}/"):
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = prefix, path[len(prefix) :]
        return environ

    def log_request(self) -> None:
        if self.server.log.access_log_enabled:
            PyWSGIHandler.log_request(self)


class GunicornServer(Server):
    """Our server on gunicorn's socket, run by its worker."""

    handler_class = GunicornHandler
    running: ClassVar[set["GunicornServer"]] = set()

    def __init__(self, listener: Any, application: Any, **its_options: Any) -> None:
        settings = replace(
            hosting_of(application, Worker.settings).settings,
            host=listener.getsockname()[0],  # of a Unix socket, its path
            certfile="gunicorn's" if "ssl_context" in its_options else None,
        )
        configure(listener)
        self._stopping: gevent.Greenlet | None = None
        try:
            super().__init__(listener, application, settings, **its_options)
        except StartupError as error:  # with this status gunicorn does not try again
            its_options["log"].error("%s", error)
            sys.exit(Arbiter.APP_LOAD_ERROR)
        self.max_requests = self.pool.size  # --worker-connections

    @property
    def logs_requests(self) -> bool:
        return self.access_log is not None or bool(self.log.access_log_enabled)

    def start(self) -> None:
        """Accept connections, and print where; signals are gunicorn's."""
        super(Server, self).start()
        self.running.add(self)
        gevent.spawn(self._close_timed_out_regularly)
        announce(self.hosting.name, self.settings, self.socket.getsockname())

    def _close_timed_out_regularly(self) -> None:
        while not self.closed:
            self.close_timed_out()
            gevent.sleep(limits.LOOK_INTERVAL)

    def close(self) -> None:
        """Shut down gracefully, before gunicorn ends the worker."""
        if self._stopping is None:
            self._stopping = gevent.spawn(self.stop)
        if gevent.getcurrent() is self._stopping:  # in which our own `stop` closes
            super().close()
        else:
            self._stopping.join()


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """One process that serves by greenlets: gunicorn's `worker_class`."""

    server_class = GunicornServer
    wsgi_handler = GunicornHandler
    #: For an app that brings none; a configuration file may set it. Any Host is accepted, as a
    #: proxy in front of gunicorn passes on the name that the browser used.
    settings = ServerSettings(allow_hosts=None)

    def load_wsgi(self) -> None:
        """Load the app; refuse several workers that have feeds."""
        super().load_wsgi()
        if self.cfg.workers == 1:
            return
        Feed.forbidden = _SEVERAL_WORKERS
        push = getattr(self.wsgi, "extensions", {}).get("push")  # makes its feeds later
        if all(feed.is_shared for feed in Feed.instances) and (push is None or push.redis):
            return
        if self.age % self.cfg.workers == 1:
            self.log.error(_SEVERAL_WORKERS)
            sys.exit(Arbiter.APP_LOAD_ERROR)
        # One of them says so and stops gunicorn, which prints a traceback if two do.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(1)
        sys.exit()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin the shutdown at once; gunicorn looks once a second."""
        GeventPyWSGIWorker.handle_exit(self, sig, frame)
        for server in GunicornServer.running:
            gevent.spawn(server.close)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Shut down gracefully on Ctrl-C; gunicorn would stop at once."""
        Worker.handle_exit(self, sig, frame)


def make_safe(worker: type[GeventPyWSGIWorker]) -> None:
    """Make another worker class, such as `flask_sockets.worker`, serve as ours.

    gunicorn has chosen the class by then, but makes its server only after it has imported the app.
    """
    worker.server_class, worker.wsgi_handler = GunicornServer, GunicornHandler
    worker.handle_exit, worker.handle_quit = Worker.handle_exit, Worker.handle_quit
