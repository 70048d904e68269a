"""The bundle for a class without a network."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import util
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

spec = util.spec_from_file_location("offline", ROOT / "docs" / "teaching" / "offline.py")
assert spec
assert spec.loader
offline = util.module_from_spec(spec)
spec.loader.exec_module(offline)

#: What the conditions in packages' requirements are about.
MARKERS = {
    "Windows, 64 bit": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
    "Linux, 64 bit": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
}
SYSTEM = offline.SYSTEMS["Linux, 64 bit"]


@pytest.mark.parametrize("system", MARKERS)
def test_no_package_is_missing(tmp_path: Path, system: str) -> None:
    assert offline.download(tmp_path, "3.13", offline.SYSTEMS[system])
    there = {canonicalize_name(wheel.name.split("-")[0]) for wheel in tmp_path.iterdir()}
    environment = {**MARKERS[system], "python_version": "3.13", "python_full_version": "3.13.0",
                   "platform_python_implementation": "CPython", "extra": ""}  # fmt: skip
    assert {canonicalize_name(name) for name in offline.TUTORIAL} <= there
    for wheel in tmp_path.iterdir():
        with zipfile.ZipFile(wheel) as files:
            name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
            about = Parser().parsestr(files.read(name).decode())
        for text in about.get_all("Requires-Dist") or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate(environment):
                assert canonicalize_name(needed.name) in there, f"{wheel.name} needs {text}"
    assert offline.download(tmp_path, "3.10", offline.SYSTEMS["macOS, Apple"]) is False


def test_the_tutorial_can_be_followed_without_a_network(tmp_path: Path) -> None:
    """From stage 6 on it installs the library, which would fetch what builds it."""
    offline.build(tmp_path)
    assert offline.download(tmp_path, "{}.{}".format(*sys.version_info), SYSTEM)
    command = re.findall("^    .venv/bin/pip install (.* pushlab .*)$", offline.README, re.M)[0]
    arguments = command.replace("wheels", str(tmp_path)).split()
    as_in_an_empty_one = "--dry-run", "--ignore-installed"
    pip = [sys.executable, "-m", "pip", "--quiet", "install", *as_in_an_empty_one]
    subprocess.run([*pip, *arguments], check=True)
    (wheel,) = tmp_path.glob("pushlab-*.whl")
    wheel.unlink()
    assert subprocess.run([*pip, *arguments], check=False, stderr=subprocess.DEVNULL).returncode


def test_it_has_what_git_has() -> None:
    names = {str(path.relative_to(ROOT)) for path in offline.programs()}
    assert {"serve.py", "requirements.txt", "pushlab/hub.py", "templates/page.html"} <= names
    assert not [name for name in names if name.startswith((".venv", "build"))]
