"""A transport is added to a copy, as CONTRIBUTING.rst says."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.browsing import Browser
from tests.clients import Response
from tests.conftest import ROOT, Server, Start

NAME = "throwaway"
SECTION = (ROOT / "CONTRIBUTING.rst").read_text().split("How to add a transport\n")[1]
SECTION = SECTION.split("How to add a source\n")[0]

#: What the text names: the four files, the file of the row, and the row.
FILES = re.findall(r"\*, ``([\w./]+/NAME\.\w+)``", SECTION)
[ROW_FILE] = re.findall(r"\*\*The row\*\*, in ``_ALL`` of ``([\w./]+)``", SECTION)
[ROW] = re.findall(r"^ +Transport\(\n.*?^ +\),\n", SECTION, re.DOTALL | re.MULTILINE)
#: The browser half as it is printed.
[_JS] = re.findall(r"\.\. code:: js\n\n((?: {6}.*\n|\n)+)", SECTION)
BROWSER_HALF = textwrap.dedent(_JS)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with another transport.

    Its browser half is as printed in the text, and the other files are copies of the long poll's.
    """
    copy = tmp_path_factory.mktemp("contributing") / "tree"
    skip = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "build", "comparison")
    shutil.copytree(ROOT, copy, ignore=skip)
    for file in FILES:
        text = (copy / file.replace("NAME", "longpoll")).read_text()
        text = text.replace("/update", f"/{NAME}").replace("longpoll", NAME)
        if file.endswith(".js"):
            text = BROWSER_HALF.replace("NAME", NAME)
        (copy / file.replace("NAME", NAME)).write_text(text)
    registry = (copy / ROW_FILE).read_text()
    row = ROW.replace("NAME", NAME).replace('"Name"', '"Throwaway poll"')
    before, end, after = registry.partition("\n)\n\n#: Every transport")
    assert end
    (copy / ROW_FILE).write_text(f"{before}\n{row.rstrip()}{end}{after}")
    return copy


@pytest.fixture
def server(copy: Path, start: Start) -> Server:
    environment = {"PYTHONPATH": str(copy)}
    return start("serve.py", "--source", "http", folder=copy, environment=environment)


def test_the_text_names_four_files() -> None:
    assert len(FILES) == len(set(FILES)) == 4
    assert all((ROOT / file.replace("NAME", "longpoll")).is_file() for file in FILES)


def test_the_page_has_a_lane_for_it(server: Server, browser: Browser) -> None:
    colour = re.findall(r'Colour\("(#\w+)", "(#\w+)"\)', ROW)[0]
    assert f"light-dark({', '.join(colour)})" in text(server, "/static/transports.css")
    browser.visit(server)
    lane = browser.lane(NAME)
    assert lane.find("h2").text == "Throwaway poll"
    for number in range(2):
        browser.until_live(lane.selector, cursor=server.publish({"number": number}))
    assert browser.complaints() == []


def test_the_code_button_shows_both_halves(server: Server) -> None:
    page = text(server, f"/code/{NAME}")
    for file in FILES[:2]:
        assert file.replace("NAME", NAME) in page
    response: Response = server.http.get(f"/static/transports/{NAME}.js")
    assert response.headers["Content-Type"].startswith("text/javascript")


def test_the_contract_runs_for_it(copy: Path) -> None:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"serve.py-{NAME}"]
    printed = run(copy, *command, "tests/test_contract.py")
    assert re.search(r"^\d\d? passed, \d+ deselected", printed, re.MULTILINE), printed


def test_it_can_be_measured(copy: Path) -> None:
    options = f"--transports {NAME} --clients 2 --rtt 0 --pace 0.2 --changes 2 --output measured"
    run(copy, "compare.py", *options.split())
    results = json.loads((copy / "measured" / "results.json").read_text())
    assert NAME in json.dumps(results)


def text(server: Server, path: str) -> str:
    response = server.http.get(path)
    assert response.status == 200, path
    return response.body.decode()


def run(copy: Path, *arguments: str) -> str:
    """Run Python in the copy; return what it prints."""
    done = subprocess.run([sys.executable, *arguments], cwd=copy, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
