"""Changes limits of any program before it starts: LIMITS is JSON.

Python imports this by its name, where PYTHONPATH has this folder. Each module is changed when the
program has imported it, as gevent patches before other imports.

Also caches the packages' entry points, for which gevent looks 25 times as it patches: among the
tests' packages, that takes a program a sixth of its start.
"""

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

changes: dict[str, dict[str, Any]] = {}


def change(environment: Mapping[str, str]) -> None:
    """Change what is imported from now on."""
    for path, value in json.loads(environment.get("LIMITS", "{}")).items():
        module, _, name = path.rpartition(".")
        changes.setdefault(module or "pushlab.limits", {})[name] = value


class Changing(MetaPathFinder):
    """Finds the modules that are to be changed."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        values = changes.pop(fullname, None)
        if values is None:
            return None
        spec = find_spec(fullname)
        assert spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for name, value in values.items():
                assert hasattr(module, name), name
                setattr(module, name, value)

        loader.exec_module = exec_module
        return spec


change(os.environ)
sys.meta_path.insert(0, Changing())
metadata.entry_points = cache(metadata.entry_points)  # type: ignore[assignment]
