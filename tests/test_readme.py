"""The README and the docs are true: they parse, their figures, files and commands are real."""

import doctest
import json
import re
import subprocess
import textwrap
from pathlib import Path

import docutils.core
import pytest

from bench import bytes_on_wire as wire
from bench.clients.publisher import VALUE
from tests.conftest import ROOT

README = (ROOT / "README.rst").read_text()


PAGES = [*sorted(ROOT.glob("*.rst")), *sorted((ROOT / "docs").rglob("*.rst")),
         *sorted((ROOT / "examples").rglob("*.rst"))]  # fmt: skip

#: A name in the text that looks like a file or folder of this tree, and where a link leads.
NAMED = re.compile(r"``((?:\w[\w.-]*/)*(?:\w[\w.-]*\.(?:py|js|rst|ini|conf|txt|png|toml)))``")
#: These name no file by its path.
EXAMPLES = {"hello.py", "__init__.py", "sse.js"}
LINKED = re.compile(r"<([\w./-]+)>`_|^\.\. image:: (\S+)", re.MULTILINE)


def pages(*which: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", which or PAGES, ids=lambda page: page.name)


@pages(*(page for page in PAGES if not page.is_relative_to(ROOT / "docs")))
def test_it_is_proper_restructuredtext(page: Path) -> None:
    strict = {"halt_level": 2, "report_level": 2}
    docutils.core.publish_string(page.read_text(), settings_overrides=strict)


@pages()
def test_its_examples_are_real(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False).failed == 0


@pages()
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in filter(None, (a or b for a, b in LINKED.findall(page.read_text()))):
        assert (page.parent / target).exists(), target


@pages(ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", ROOT / "docs/explanation/architecture.rst")
def test_its_files_exist(page: Path) -> None:
    named = set(NAMED.findall(page.read_text())) - EXAMPLES
    assert named
    for name in (each for each in named if "NAME" not in each):
        assert (ROOT / name).exists(), name


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000


def test_its_figures_are_measured() -> None:
    costs = wire.measure()
    found = json.loads((ROOT / "docs" / "results" / "wire.json").read_text())
    assert found["costs"] == costs
    assert found["value"] == VALUE
    page = (ROOT / "docs" / "explanation" / "transports.rst").read_text()
    assert textwrap.indent(wire.table(costs), "   ") in page


def test_serve_py_is_as_short_as_it_says() -> None:
    said = re.search(r"under (\d+) lines", README)
    assert said
    assert len((ROOT / "serve.py").read_text().splitlines()) < int(said[1])


def test_its_targets_are_in_the_makefile() -> None:
    for target in re.findall(r"^   make (\w+)", README, re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
