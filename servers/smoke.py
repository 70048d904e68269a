"""Smoke test: start serve.py, load, receive a change, stop.

For every system; it needs the packages of requirements.txt alone. Exits with 1 and a line that says
what did not work.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WINDOWS = sys.platform == "win32"
TIMEOUT = 30.0  #: seconds, for each step


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:  # noqa: S310 - our own server
        return str(response.read().decode())


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    # On Windows only a group of its own can be sent a Ctrl-C.
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    server = subprocess.Popen(  # noqa: S603
        [sys.executable, "-u", str(ROOT / "serve.py"), "--port", "0", "--every", "0.5"],
        stdout=subprocess.PIPE, text=True, creationflags=flags,
    )  # fmt: skip
    try:
        assert server.stdout  # noqa: S101
        near, far = server.stdout.readline(), server.stdout.readline()
        url = next(word for word in near.split() if "://" in word)
        assert "Pushlab" in get(f"{url}/"), "no page"  # noqa: S101
        cursor = json.loads(get(f"{url}/data"))["cursor"]
        assert json.loads(get(f"{url}/update?carry=1&after={cursor}"))["cursor"] != cursor  # noqa: S101
        with urllib.request.urlopen(  # noqa: S310
            urllib.request.Request(f"{url}/update", headers={"Accept": "text/event-stream"}),  # noqa: S310
            timeout=TIMEOUT,
        ) as stream:
            lines = [stream.readline() for _ in range(6)]
        assert any(line.startswith(b"data:") for line in lines), lines  # noqa: S101
        away = next(word for word in far.split() if "://" in word)
        begun = time.monotonic()
        get(f"{away}/data")
        assert time.monotonic() - begun > 0.2, "the far port is not far"  # noqa: S101
        os.kill(server.pid, getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
        status = server.wait(TIMEOUT)
        assert WINDOWS or status == 0, f"it ended with {status}"  # noqa: S101
    finally:
        server.kill()
    print("It starts, serves, pushes and stops.")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, OSError, StopIteration, ValueError) as problem:
        sys.exit(f"It does not work: {problem!r}")
