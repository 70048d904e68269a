"""Run any example on gevent: `python examples/on_gevent.py threads`.

The examples that are made for gevent import this first, and call `serve` last.
"""

import sys
from pathlib import Path

# As if the example had been started in the folder of pushlab/.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lab import requirements_check

requirements_check.check("requirements.txt")  # a missing package is one clear line

# From here on, code that waits (for a socket, a lock, time.sleep) lets other greenlets run. It is
# patched before it is used, and so before Flask is imported.
from gevent import monkey

monkey.patch_all()

from functools import partial

from examples import one_of
from pushlab.hosting import gevent_server

serve = partial(one_of.serve, run=gevent_server.run, where="gevent")

if __name__ == "__main__":
    serve(one_of.named())
