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
from tests.conftest import ROOT

README = (ROOT / "README.rst").read_text()


PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_it_is_proper_restructuredtext(page: Path) -> None:
    strict = {"halt_level": 2, "report_level": 2}
    docutils.core.publish_string(page.read_text(), settings_overrides=strict)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_examples_are_real(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_its_figures_are_measured() -> None:
    costs = wire.measure()
    found = json.loads(wire.RESULT.read_text())
    assert wire.from_raw_result(found) == costs
    assert found["value"] == wire.VALUE
    assert textwrap.indent(wire.table(costs), "   ") in README


def test_its_files_exist() -> None:
    named = re.findall(r"``?([\w/.]+(?:/|\.py|\.png|\.txt))[`,<>\s]|:: (\S+\.png)", README)
    assert len(named) > 8
    for name in filter(None, (a or b for a, b in named)):
        assert (ROOT / name).exists(), name


def test_serve_py_is_as_short_as_it_says() -> None:
    said = re.search(r"tutorial of (\d+) lines", README)
    assert said
    assert len((ROOT / "serve.py").read_text().splitlines()) == int(said[1])


def test_its_targets_are_in_the_makefile() -> None:
    for target in re.findall(r"^   make (\w+)", README, re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
