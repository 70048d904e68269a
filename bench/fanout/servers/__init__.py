"""Other servers that do the same, installed apart from ours.

Each script here sends a signal to all WebSockets for each POST /data, or for each message to
/publish. The user's cache folder has a virtual environment for them, and Node's packages.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.fanout.experiments import Subject

SCRIPTS = Path(__file__).parent
#: Seconds that an installation may take.
INSTALL_TIMEOUT = 600


class Unavailable(Exception):
    """The server cannot be installed; the message says why."""


@dataclass(frozen=True)
class OtherServer:
    """A script, its packages, and how it is made to publish."""

    name: str
    script: str
    packages: tuple[str, ...]
    publisher: str = "http"
    http: bool = False


OTHER_SERVERS = (
    OtherServer("picows", "picows_server.py", ("picows", "uvloop"), publisher="websocket"),
    OtherServer(
        "websockets.broadcast", "websockets_server.py", ("websockets",), publisher="websocket"
    ),
    OtherServer("aiohttp", "aiohttp_server.py", ("aiohttp",), http=True),
    OtherServer("Node ws", "node_ws.js", ("ws",), http=True),
    OtherServer("Tornado", "tornado_server.py", ("tornado",), http=True),
    OtherServer("gevent-websocket", "gevent_websocket_server.py", ("gevent", "gevent-websocket")),
    OtherServer(
        "flask-sock, gunicorn",
        "flask_sock_server.py",
        ("flask", "flask-sock", "gunicorn", "gevent", "packaging"),
    ),
)


def cache() -> Path:
    """Return the folder of the other servers, outside the checkout."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pushlab-other-servers"
    )


def install(server: OtherServer) -> Subject:
    """Install what the server needs; raises Unavailable."""
    node = server.script.endswith(".js")
    command, versions = (_npm if node else _pip)(server.packages)
    return Subject(
        name=server.name,
        command=[command, str(SCRIPTS / server.script)],
        publisher=server.publisher,
        http=server.http,
        environment={"NODE_PATH": str(cache() / "node_modules")},
        versions=versions,
    )


def _pip(packages: tuple[str, ...]) -> tuple[str, dict[str, str]]:
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


def _npm(packages: tuple[str, ...]) -> tuple[str, dict[str, str]]:
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
