"""The bundle for a class without a network."""

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


@pytest.mark.parametrize("system", MARKERS)
def test_no_package_is_missing(tmp_path: Path, system: str) -> None:
    assert offline.download(tmp_path, "3.13", offline.SYSTEMS[system])
    there = {canonicalize_name(wheel.name.split("-")[0]) for wheel in tmp_path.iterdir()}
    environment = {**MARKERS[system], "python_version": "3.13", "python_full_version": "3.13.0",
                   "platform_python_implementation": "CPython", "extra": ""}  # fmt: skip
    for wheel in tmp_path.iterdir():
        with zipfile.ZipFile(wheel) as files:
            name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
            about = Parser().parsestr(files.read(name).decode())
        for text in about.get_all("Requires-Dist") or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate(environment):
                assert canonicalize_name(needed.name) in there, f"{wheel.name} needs {text}"
    assert offline.download(tmp_path, "3.10", offline.SYSTEMS["macOS, Apple"]) is False


def test_it_has_what_git_has() -> None:
    names = {str(path.relative_to(ROOT)) for path in offline.programs()}
    assert {"serve.py", "requirements.txt", "pushlab/hub.py", "templates/page.html"} <= names
    assert not [name for name in names if name.startswith((".venv", "build"))]
