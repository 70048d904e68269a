"""How the suite is divided among workers: by files, and where a file asks every server, by servers.

What is in one part shares its servers and its browser. (xdist's own `loadgroup` would do, but since
pytest 9.1 it no longer sees the groups.)
"""

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.hosting import WAYS

#: Those whose tests' first parameter is a server.
BY_SERVER = ("tests/test_contract.py", "tests/test_servers.py")

#: Those that take longest in one piece, and so must not come last.
LONGEST = ("tests/test_examples.py", "tests/test_uwsgi.py", "tests/test_threads.py")

_WAY = re.compile(rf"\[({'|'.join(sorted(map(re.escape, WAYS), key=len, reverse=True))})[\]-]")


def part_of(nodeid: str) -> str:
    """Name the part that a test belongs to."""
    file, _, test = nodeid.partition("::")
    way = _WAY.search(test) if file in BY_SERVER else None
    return f"{file} {way[1]}" if way else file


class ByParts(LoadScopeScheduling):  # type: ignore[misc]
    """Gives whole parts to workers."""

    def _split_scope(self, nodeid: str) -> str:
        return part_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByParts:
    return ByParts(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put every part that needs a browser between two that do not.

    They take longest: all at once they would slow each other down, and one worker would be left
    with them in the end.
    """

    def place(item: pytest.Item) -> tuple[int, bool]:
        part = part_of(item.nodeid)
        kind = kinds[part in browsing]
        return kind.index(part), kind is kinds[False]

    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    parts = list(dict.fromkeys(part_of(item.nodeid) for item in items))
    browsing = {
        part_of(item.nodeid) for item in items if "chromium" in getattr(item, "fixturenames", ())
    }
    kinds = [[part for part in parts if (part in browsing) is kind] for kind in (False, True)]
    items.sort(key=place)
