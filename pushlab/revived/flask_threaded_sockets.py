"""Flask-Threaded-Sockets' API on our server of native threads.

Version 0.3.2 cannot be imported beside today's Flask. It loses messages of more than a piece, and
frames that come with the handshake. Its README names a server class that it does not have.
"""

import threading
from dataclasses import replace
from typing import Any

from flask import Flask

from pushlab.hosting.lifecycle import announce
from pushlab.hosting.listener import listen
from pushlab.hosting.settings import from_config
from pushlab.hosting.threaded_server import Server
from pushlab.hosting.werkzeug import WerkzeugUpgrade
from pushlab.sockets import Sockets

__all__ = ["Sockets", "ThreadedWebsocketServer", "ThreadedWsWSGIServer"]


class ThreadedWsWSGIServer(Server):
    """A server that listens as soon as it is made."""

    def __init__(self, host: str, port: int, app: Flask, **settings: Any) -> None:
        """Listen; raise StartupError if that is not possible.

        `settings` are fields of ServerSettings, such as `certfile`; others are in the app's
        configuration, such as PUSHLAB_ALLOW_ORIGINS.
        """
        its_settings = replace(from_config(app.config), host=host, port=port, **settings)
        upgrade = WerkzeugUpgrade.of(app, its_settings)
        super().__init__(listen(host, port), app, its_settings, on_shutdown=(upgrade.close,))
        self._settings = its_settings

    def serve_forever(self, *arguments: Any, **options: Any) -> None:
        """Serve until Ctrl-C or SIGTERM, or until `shutdown`.

        Only the main thread gets signals.
        """
        if threading.current_thread() is threading.main_thread():
            self.start()
        announce("The app", self._settings, self.server_address)
        super().serve_forever(*arguments, **options)


#: The name that the library has, in place of the one in its README.
ThreadedWebsocketServer = ThreadedWsWSGIServer
