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
#: What compare.py needs beside those, from bench/requirements.txt.
FOR_COMPARISON = {"rich": "rich", "matplotlib": "matplotlib"}
#: What native threads do without.
FOR_GEVENT = ("gevent", "geventwebsocket", "flask_sockets")


def demand(*, gevent: bool = True, comparison: bool = False) -> None:
    """Exit with one line if a package is missing.

    Which packages gevent needs may not matter, and those for the comparison matter only to it.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - a program is also run where it should not be
        sys.exit(f"Pushlab needs Python 3.10 or newer; this is {sys.version.split()[0]}.")
    missing = [
        package
        for module, package in {**NEEDED, **(FOR_COMPARISON if comparison else {})}.items()
        if (gevent or module not in FOR_GEVENT) and find_spec(module) is None
    ]
    requirements = "bench/requirements.txt" if comparison else "requirements.txt"
    if missing:
        sys.exit(
            f"Not installed: {', '.join(missing)}. "
            f"Run: {sys.executable} -m pip install -r {requirements}"
        )
