"""serve.py with a clock that is set: an hour on by SIGUSR1, back by SIGUSR2.

AHEAD is by how many seconds it is wrong at the start.
"""

import os
import runpy
import signal
import time

true_time, jumped = time.time, float(os.environ.get("AHEAD", "0"))


def jump(seconds: float) -> None:
    """Set the clock."""
    global jumped
    jumped += seconds


time.time = lambda: true_time() + jumped  # before anything else has it
signal.signal(signal.SIGUSR1, lambda *_: jump(3600))
signal.signal(signal.SIGUSR2, lambda *_: jump(-3600))
runpy.run_path("serve.py", run_name="__main__")
