"""Machine, versions and date of a measurement."""

import os
import platform
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("flask", "werkzeug", "gevent", "greenlet", "gevent-websocket", "wsproto", "psutil")


def about(**more: str) -> dict[str, Any]:
    """Return date, machine and versions, also of more packages."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": f"{platform.system()} {platform.release().split('-')[0]}",
        },
        "versions": {"Python": platform.python_version(), **packages, **more},
    }


#: What `described` says.
DESCRIBED = ("date", "machine", "versions")


def described(found: Mapping[str, Any]) -> str:
    """Return what `about` returned, in two lines."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['date']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}.\n{versions}."
    )


def _cpu_model() -> str:
    if sys.platform == "linux":
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()
