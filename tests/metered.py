"""serve.py as it is, which in the end tells what its meters say, as a line of JSON.

Heartbeats are frequent here, so that there are some to count.
"""

from gevent import monkey

monkey.patch_all()

import json
import runpy

from pushlab import limits

HEARTBEAT = 0.2

if __name__ == "__main__":
    limits.HEARTBEAT = HEARTBEAT
    meters = runpy.run_path("serve.py", run_name="__main__")["lab"].meters
    sums = {
        lane: {
            "requests": meter.requests,
            "empty": meter.empty,
            "up": meter.up,
            "down": meter.down,
            "told": len(meter.records),
            "open": len(meter._connections),
        }
        for lane, meter in meters._meters.items()
    }
    print(json.dumps(sums), flush=True)
