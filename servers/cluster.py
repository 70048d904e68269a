"""nginx, four processes and Redis on this machine: `make cluster`.

Options are those of serve.py. Ctrl-C stops all of it; SIGHUP restarts the processes, one after
another. Everything that it writes is in .cluster/.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("CLUSTER_FOLDER", HERE.parent / ".cluster"))

#: Those of nginx, as in nginx.conf, of the processes, and of Redis; CLUSTER_PORTS has others.
PORTS = os.environ.get("CLUSTER_PORTS", "8080 5000 6390").split()
NGINX, SERVE, REDIS = PORTS
PROCESSES = 4


def programs() -> dict[str, list[str]]:
    """Return the command lines, each after what it needs."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    found = {name: shutil.which(name, path=path) for name in ("redis-server", "nginx")}
    if missing := [name for name, where in found.items() if where is None]:
        names = " and ".join(missing)
        sys.exit(f"Install {names} first: sudo apt install redis-server nginx-light")
    return {
        "Redis": [
            str(found["redis-server"]), "--port", REDIS, "--bind", "127.0.0.1",
            "--dir", str(FOLDER), "--appendonly", "yes", "--save", "", "--logfile", "redis.log",
        ],
        "serve.py": [
            sys.executable, str(HERE.parent / "serve.py"), "--workers", str(PROCESSES),
            "--port", SERVE, "--redis", f"redis://127.0.0.1:{REDIS}",
            "--trusted-proxy", "127.0.0.1", *sys.argv[1:],
        ],
        "nginx": [str(found["nginx"]), "-p", str(FOLDER), "-c", "nginx.conf"],
    }  # fmt: skip


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    text = (HERE / "nginx.conf").read_text()
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{NGINX}")
    (FOLDER / "nginx.conf").write_text(text.replace("127.0.0.1:5000", f"127.0.0.1:{SERVE}"))
    running: dict[str, subprocess.Popen[bytes]] = {}

    has_terminal = sys.stdin.isatty()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def restart(*_: object) -> None:
        if has_terminal and not sys.stdin.isatty():  # it was closed
            stop()
        if "serve.py" in running:
            running["serve.py"].send_signal(signal.SIGHUP)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, restart)
    status = 0
    try:
        for name, command in programs().items():
            running[name] = subprocess.Popen(command, start_new_session=True)  # noqa: S603
            time.sleep(0.5)  # Redis; the others try again until the one before is there
        print(f"The cluster is at http://127.0.0.1:{NGINX} (Ctrl-C stops it)", flush=True)
        while not status:
            for name, process in running.items():
                if process.poll() is not None:
                    print(f"{name} has ended", file=sys.stderr)
                    status = 1
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it is stopping already
            signal.signal(each, signal.SIG_IGN)
        for process in reversed(running.values()):
            process.terminate()
            process.wait()
    return status


if __name__ == "__main__":
    sys.exit(main())
