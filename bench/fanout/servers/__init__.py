"""Other servers that do the same, installed apart from ours.

Each script here sends a signal to all WebSockets for each POST /data, or for each message to
/publish. The user's cache folder has a virtual environment for them, and Node's packages.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.fanout.experiments import Subject
from bench.fanout.floor import build
from bench.processes import NotRunning

SCRIPTS = Path(__file__).parent
#: Seconds that an installation may take.
INSTALL_TIMEOUT = 600


class Unavailable(Exception):
    """The server cannot be installed; the message says why."""


#: The command is the script here; `install` puts its interpreter before it.
OTHER_SERVERS = (
    Subject("epoll in C", ["epoll_server.c"]),
    Subject("picows", ["picows_server.py"], "websocket", False, ["picows", "uvloop"]),
    Subject("websockets.broadcast", ["websockets_server.py"], "websocket", False, ["websockets"]),
    Subject("aiohttp", ["aiohttp_server.py"], packages=["aiohttp"]),
    Subject("Node ws", ["node_ws.js"], packages=["ws"]),
    Subject("Tornado", ["tornado_server.py"], packages=["tornado"]),
    Subject(
        "gevent-websocket",
        ["gevent_websocket_server.py"],
        http=False,
        packages=["gevent", "gevent-websocket"],
    ),
    Subject(
        "flask-sock, gunicorn",
        ["flask_sock_server.py"],
        http=False,
        packages=["flask", "flask-sock", "gunicorn", "gevent", "packaging"],
    ),
)


def cache() -> Path:
    """Return the folder of the other servers, outside the checkout."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder, "pushlab-other-servers")


def install(server: Subject) -> Subject:
    """Return the server as it can be run; raises Unavailable."""
    (script,) = server.command
    if script.endswith(".c"):
        cache().mkdir(parents=True, exist_ok=True)
        program = str(cache() / Path(script).stem)
        try:
            build(SCRIPTS / script, program)
        except NotRunning as error:
            raise Unavailable(str(error)) from error
        return replace(server, command=[program])
    interpreter, versions = (_npm if script.endswith(".js") else _pip)(server.packages)
    environment = {"NODE_PATH": str(cache() / "node_modules")}
    command = [interpreter, str(SCRIPTS / script)]
    return replace(server, command=command, environment=environment, versions=versions)


def _pip(packages: Sequence[str]) -> tuple[str, dict[str, str]]:
    folder = cache() / f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    if not Path(python).exists():
        _run(sys.executable, "-m", "venv", str(folder))
    ask = "import sys, importlib.metadata as m; print(*(m.version(p) for p in sys.argv[1:]))"
    try:
        versions = _run(python, "-c", ask, *packages)
    except Unavailable:
        _run(python, "-m", "pip", "install", "--quiet", *packages)
        versions = _run(python, "-c", ask, *packages)
    return python, dict(zip(packages, versions.split(), strict=True))


def _npm(packages: Sequence[str]) -> tuple[str, dict[str, str]]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Unavailable("node and npm are not installed")
    modules = cache() / "node_modules"
    if not all((modules / package).exists() for package in packages):
        cache().mkdir(parents=True, exist_ok=True)
        _run(npm, "install", "--silent", "--no-audit", "--prefix", str(cache()), *packages)
    ask = "for (const p of process.argv.slice(1)) console.log(require(p + '/package.json').version)"
    versions = _run(node, "-e", ask, *(str(modules / package) for package in packages)).split()
    return node, dict(zip(packages, versions, strict=True)) | {"node": _run(node, "--version")}


def _run(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the commands above
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=True
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip().rpartition("\n")[2]
        raise Unavailable(reason or f"{command[0]} failed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    return done.stdout.strip()
