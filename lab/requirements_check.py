"""One clear line if a package is missing.

It runs before every other import, so it uses nothing that gevent still has to patch.
"""

import re
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from lab import standard_streams  # noqa: F401 - before any other descriptor is opened

ROOT = Path(__file__).resolve().parent.parent


def check(file: str, *, without: Collection[str] = ()) -> None:
    """Exit with one line unless all requirements are installed.

    `without` names packages that the program does not need.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - a program may be run with an old Python
        sys.exit(f"Pushlab needs Python 3.10 or newer; this is {sys.version.split()[0]}.")
    missing = [name for name in packages(file) if name not in without and not _is_installed(name)]
    if missing:
        sys.exit(
            f"Not installed: {', '.join(missing)}. Run: {sys.executable} -m pip install -r {file}"
        )


def packages(file: str) -> list[str]:
    """Return the names in a requirements file, includes followed."""
    names: list[str] = []
    for line in (ROOT / file).read_text().splitlines():
        if included := re.match(r"-r (\S+)", line):
            names += packages(str(Path(file).parent / included[1]))
        elif name := re.match(r"[\w-]+", line):
            names.append(name[0])
    return list(dict.fromkeys(names))


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
