"""serve.py, which prints its meters' totals when it ends.

It sends heartbeats often, so that there are some to count.
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
            "records": len(meter.records),
            "open": len(meter._connections),
        }
        for lane, meter in meters._meters.items()
    }
    print(json.dumps(sums), flush=True)
