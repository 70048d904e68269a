"""Offline: a zip with all that a class without a network needs.

`make offline` runs it: the programs, the site of the docs, and the packages of requirements.txt for
each system and Python that has them. It needs a network itself.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "build" / "docs"
TARGET = ROOT / "build" / "pushlab-offline.zip"

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: By system, the platforms of wheels, newest first.
SYSTEMS = {
    "Linux, 64 bit": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "macOS, Apple": ("macosx_12_0_arm64", "macosx_11_0_arm64", "macosx_11_0_universal2"),
    "macOS, Intel": ("macosx_12_0_x86_64", "macosx_11_0_x86_64", "macosx_10_9_x86_64"),
    "Windows, 64 bit": ("win_amd64",),
}

#: What stages 6 to 10 of the tutorial need beside requirements.txt and the library itself.
TUTORIAL = ("websockets",)
#: What only Windows needs: pip judges conditions by the system that it runs on.
ONLY_WINDOWS = ("cffi", "colorama")

README = """\
Pushlab, for a room without a network
=====================================

Only the teacher needs this, if students use browsers alone: python serve.py --class
The documentation is in site/index.html.

In a terminal, in this folder, on Linux or macOS:

    python3 -m venv .venv
    .venv/bin/pip install --no-index --find-links wheels -r requirements.txt
    .venv/bin/python serve.py

and on Windows, in PowerShell:

    py -m venv .venv
    .venv\\Scripts\\pip install --no-index --find-links wheels -r requirements.txt
    .venv\\Scripts\\python serve.py

What stages 6 to 10 of the tutorial install (on Windows: .venv\\Scripts\\pip):

    .venv/bin/pip install --no-index --find-links wheels pushlab websockets

The packages are here for:

{complete}
{missing}"""


def download(folder: Path, python: str, platforms: tuple[str, ...]) -> bool:
    """Fetch the wheels; tell whether there were all."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--only-binary=:all:", "--python-version", python, "--dest", str(folder),
               "-r", str(ROOT / "requirements.txt"), *TUTORIAL]  # fmt: skip
    for platform in (*platforms, "any"):
        command += ["--platform", platform]
    command += ONLY_WINDOWS if platforms[0].startswith("win") else ()
    return not subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603


def build(folder: Path) -> None:
    """Make a wheel of the library, which runs on every system."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--wheel-dir", str(folder), str(ROOT)]  # fmt: skip
    subprocess.run(command, check=True)  # noqa: S603


def programs() -> Iterator[Path]:
    """Yield the files of the checkout, as git knows them."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    yield from (ROOT / name for name in listed.split("\0") if name)


def main() -> None:
    if not (SITE / "index.html").exists():
        sys.exit("Build the site first: make docs")
    found: dict[bool, list[str]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        wheels = Path(name)
        build(wheels)
        for (system, platforms), python in product(SYSTEMS.items(), PYTHONS):
            found[download(wheels, python, platforms)].append(f"- {system}, Python {python}")
            print(".", end="", flush=True)
        if not found[True]:
            sys.exit("\nNo packages could be fetched: is there a network?")
        missing = "\nNot for these, which would compile a package:\n\n" + "\n".join(found[False])
        text = README.format(
            complete="\n".join(found[True]), missing=missing if found[False] else ""
        )
        with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("pushlab/OFFLINE.txt", text)
            for path in programs():
                bundle.write(path, Path("pushlab", path.relative_to(ROOT)))
            for path in sorted(SITE.rglob("*")):
                if ".doctrees" not in path.parts:
                    bundle.write(path, Path("pushlab", "site", path.relative_to(SITE)))
            for path in sorted(wheels.iterdir()):
                bundle.write(path, Path("pushlab", "wheels", path.name))
    size = TARGET.stat().st_size / 1e6
    print(f"\n{TARGET.relative_to(ROOT)}: {size:.0f} MB, {len(found[True])} of "
          f"{sum(map(len, found.values()))} systems and Pythons")  # fmt: skip


if __name__ == "__main__":
    main()
