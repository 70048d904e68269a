"""Flask-Threaded-Sockets: the same app on its server."""

import os

from pushlab.revived.flask_threaded_sockets import Sockets, ThreadedWsWSGIServer
from tests.revived.sockets import app, sockets

assert isinstance(sockets, Sockets)

if __name__ == "__main__":
    srv = ThreadedWsWSGIServer("0.0.0.0", int(os.environ["PORT"]), app)
    srv.serve_forever()
