"""What Pushlab needs that is not in the standard library, and one clear line if it is missing.

It comes before every other import, so it uses nothing but importlib: nothing that gevent still
has to patch.
"""

import sys
from importlib.util import find_spec

#: Import name and name on PyPI of everything in requirements.txt.
NEEDED = {
    "flask": "flask",
    "gevent": "gevent",
    "geventwebsocket": "gevent-websocket",
    "flask_sockets": "flask-sockets",
    "wsproto": "wsproto",
    "psutil": "psutil",
    "pygments": "pygments",
}
#: What native threads do without.
FOR_GEVENT = ("gevent", "geventwebsocket", "flask_sockets")


def demand(*, gevent: bool = True) -> None:
    """Exit with one line if a package is missing; which packages gevent needs may not matter."""
    if sys.version_info < (3, 10):  # noqa: UP036 - a program is also run where it should not be
        sys.exit(f"Pushlab needs Python 3.10 or newer; this is {sys.version.split()[0]}.")
    missing = [
        package
        for module, package in NEEDED.items()
        if (gevent or module not in FOR_GEVENT) and find_spec(module) is None
    ]
    if missing:
        sys.exit(
            f"Not installed: {', '.join(missing)}. "
            f"Run: {sys.executable} -m pip install -r requirements.txt"
        )
