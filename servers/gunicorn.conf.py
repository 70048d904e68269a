# gunicorn -c servers/gunicorn.conf.py serve:app
"""The page on gunicorn, in one process.

Several processes would show different data. PUSHLAB_OPTIONS, PORT and gunicorn's own options apply.
WebSockets, limits and shutdown are those of serve.py; gunicorn adds its logs, its signals, and a
master process that watches the worker.
"""

from gevent import monkey

monkey.patch_all()  # already in the master, which imports what must be patched first

import sys
from pathlib import Path

chdir = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, chdir)

from lab.settings import parse
from pushlab.hosting.gunicorn import Worker

settings = parse([])

host = f"[{settings.host}]" if ":" in settings.host else settings.host
bind = f"{host}:{settings.port}"
worker_class = "pushlab.hosting.gunicorn.Worker"
Worker.settings = settings  # for an app that brings none: an example
workers = 1
# Requests in greenlets at a time. Connections that wait do not count.
worker_connections = settings.max_connections or 10_000
graceful_timeout = 4
certfile, keyfile = settings.certfile, settings.keyfile
loglevel = settings.log_level
control_socket_disable = True  # or gunicorn 27 writes to the home directory
