"""Changes limits of any server before it starts: LIMITS is JSON.

Python imports this by its name, where PYTHONPATH has this folder.
"""

import json
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# Without the rest of the package: gevent patches before other imports.
_path = Path(__file__).parents[2] / "pushlab" / "limits.py"
_spec = spec_from_file_location("pushlab.limits", _path)
assert _spec
assert _spec.loader
limits = module_from_spec(_spec)
_spec.loader.exec_module(limits)
for name, value in json.loads(os.environ["LIMITS"]).items():
    assert hasattr(limits, name), name
    setattr(limits, name, value)
sys.modules["pushlab.limits"] = limits
