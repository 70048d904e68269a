"""tests/routes.py on native threads, with the options of serve.py."""

import logging
import sys

from lab import settings as options
from pushlab.hosting.listener import listen
from pushlab.hosting.threaded_server import Server
from pushlab.hosting.werkzeug import WerkzeugUpgrade
from tests.routes import app, feed, hub

if __name__ == "__main__":
    logging.basicConfig()
    settings = options.parse(sys.argv[1:])
    upgrade = WerkzeugUpgrade(app.wsgi_app, settings, **settings.connection_options())
    app.wsgi_app = upgrade  # type: ignore[method-assign]
    listener = listen(settings.host, settings.port)
    server = Server(listener, app, settings, on_shutdown=(feed.close, upgrade.close, hub.close))
    server.start()
    print(f"at {settings.url(listener.getsockname()[1])}", flush=True)
    server.serve_forever()
