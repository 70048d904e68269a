"""A gunicorn worker that serves WebSockets safely: gunicorn's own gevent worker with our server.

`gunicorn -c servers/gunicorn.conf.py serve:app` uses it. It hosts any WSGI app; of one of ours it
also knows whom to say goodbye to, who may come, and what to measure.
"""

from dataclasses import replace
from typing import Any, ClassVar

import gevent
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from lab import settings as options
from pushlab.hosting.gevent_handler import Handler
from pushlab.hosting.gevent_server import Server


class GunicornHandler(Handler):
    """Our handler, with gunicorn's log of requests (`--access-logfile`)."""

    def log_request(self) -> None:
        if self.server.log.access_log_enabled:
            PyWSGIHandler.log_request(self)


class GunicornServer(Server):
    """Our server, on a socket of gunicorn's: started and stopped by its worker."""

    handler_class = GunicornHandler
    running: ClassVar[set["GunicornServer"]] = set()

    def __init__(self, listener: Any, application: Any, **its_options: Any) -> None:
        parts = getattr(application, "extensions", {}).get("pushlab")
        host = listener.getsockname()[0]  # of a Unix socket, its path
        self._settings = replace(
            parts.settings if parts else options.parse([]),
            host=host,
            certfile="gunicorn's" if "ssl_context" in its_options else None,
        )
        self._is_ours = parts is not None
        self._goodbye: gevent.Greenlet | None = None
        if parts:
            its_options.update(on_shutdown=parts.on_shutdown, meters=parts.lab.meters)
        settings = replace(self._settings, certfile=None).server()  # TLS is gunicorn's
        super().__init__(listener, application, **settings, **its_options)

    def start(self) -> None:
        """Accept clients, and print where; signals are gunicorn's."""
        super(Server, self).start()
        self.running.add(self)
        gevent.spawn(self._look_after)
        address = self.socket.getsockname()
        where = self._settings.url(address[1]) if isinstance(address, tuple) else address
        name = "Pushlab" if self._is_ours else "The app"
        print(f"{name} is at {where} (Ctrl-C stops it)", flush=True)

    def _look_after(self) -> None:
        while not self.closed:
            self.close_timed_out()
            gevent.sleep(1)

    def close(self) -> None:
        """Accept no more, and say goodbye: gunicorn ends the worker as soon as it may."""
        if self._goodbye is None:
            self._goodbye = gevent.spawn(self.stop)
        if gevent.getcurrent() is self._goodbye:  # in which our own `stop` closes
            super().close()
        else:
            self._goodbye.join()


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """One process that serves by greenlets; gunicorn's `worker_class`."""

    server_class = GunicornServer
    wsgi_handler = GunicornHandler

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin the goodbye at once; gunicorn itself only looks once a second."""
        GeventPyWSGIWorker.handle_exit(self, sig, frame)
        for server in GunicornServer.running:
            gevent.spawn(server.close)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Say goodbye on Ctrl-C, too, which gunicorn takes for a wish to be quick."""
        Worker.handle_exit(self, sig, frame)


def make_safe(worker: type[GeventPyWSGIWorker]) -> None:
    """Have a worker class of others, such as `flask_sockets.worker`, serve as ours does.

    gunicorn has chosen the class by then, but makes its server only after it has imported the app.
    """
    worker.server_class, worker.wsgi_handler = GunicornServer, GunicornHandler
    worker.handle_exit, worker.handle_quit = Worker.handle_exit, Worker.handle_quit
