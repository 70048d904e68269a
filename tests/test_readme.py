"""The README is true: it parses, its figures are what is measured, its files and commands exist."""

import re
import subprocess
import textwrap

import docutils.core

from pushlab.measure import wire
from tests.conftest import ROOT

README = (ROOT / "README.rst").read_text()


def test_it_is_proper_restructuredtext() -> None:
    docutils.core.publish_string(README, settings_overrides={"halt_level": 2, "report_level": 2})


def test_its_figures_are_measured() -> None:
    costs = wire.measure()
    assert textwrap.indent(wire.table(costs), "   ") in README
    poll, carry = costs["long poll, signal then fetch"], costs["WebSocket, carry"]
    factor = re.search(r"factor\s+of\s+(\d+)", README)
    assert factor
    assert int(factor[1]) == poll.total // carry.total


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
