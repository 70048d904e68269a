"""Print every Python from 3.10 on that this machine has, one per version: for `make test-all`."""

import os
import re
import subprocess
from pathlib import Path

OLDEST = (3, 10)


def main() -> None:
    """Look along the PATH, and at what pyenv has."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += sorted(pyenv.glob("versions/*/bin"), reverse=True)
    found: dict[tuple[int, int], Path] = {}
    for folder in folders:
        for python in folder.glob("python3.*"):
            version = re.fullmatch(r"python(3)\.([0-9]+)", python.name)
            if version and (key := (int(version[1]), int(version[2]))) >= OLDEST:
                runs = subprocess.run([python, "-c", "import venv"], capture_output=True)
                if runs.returncode == 0:  # pyenv has names for some that it would not start
                    found.setdefault(key, python)
    for _, python in sorted(found.items()):
        print(python)


if __name__ == "__main__":
    main()
