"""Flask's own server, for the stages of the tutorial.

Where a stage, or the library, waits for a limited time for a browser, it waits for as many seconds
as this is called with.
"""

import sys
import threading

from flask.cli import main

seconds, wait = float(sys.argv.pop(1)), threading.Condition.wait


def waits(self: threading.Condition, timeout: float | None = None) -> bool:
    return wait(self, seconds if timeout == 25 else timeout)


threading.Condition.wait = waits  # type: ignore[method-assign]
try:
    from pushlab import limits
except ImportError:  # the first stages need Flask alone
    pass
else:
    limits.MESSAGE_TIMEOUT = limits.PING_INTERVAL = limits.ACKNOWLEDGE_TIMEOUT = seconds

if __name__ == "__main__":
    main()
