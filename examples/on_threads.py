"""Run any example on native threads: `python examples/on_threads.py echo`.

The example that is made for threads, `threads.py`, imports this first, and calls `serve` last.
"""

import sys
from pathlib import Path

# As if the example had been started in the folder of pushlab/.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lab import requirements_check

requirements_check.check("requirements.txt", without=("gevent", "gevent-websocket"))

from functools import partial

from examples import one_of
from pushlab.hosting import threaded_server

serve = partial(one_of.serve, run=threaded_server.run, where="threads")

if __name__ == "__main__":
    serve(one_of.named())
