"""Every figure in the README and the docs is that of a raw result, and a wrong one is found."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.fanout.report import Report
from bench.figures.__main__ import PARTS, main
from bench.figures.pages import NUMBERS, Claim, Part, Wrong, paths, renewed
from tests.conftest import ROOT

PAGES = {page: (ROOT / page).read_text() for page in paths(ROOT, PARTS)}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Have a copy of the pages and the raw results."""
    shutil.copy(ROOT / "README.rst", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


def test_every_page_agrees_with_the_raw_results(capsys: pytest.CaptureFixture[str]) -> None:
    """If not: `make figures`, and see whether what the pages say of the figures is still true."""
    status = main(["--check"])
    assert capsys.readouterr().err == ""
    assert status == 0


def test_what_can_be_published_is() -> None:
    text = "\n".join(PAGES.values())
    for part in PARTS:
        for name in part.blocks:
            assert f"\n.. figures: {name}\n" in text
        for name in part.numbers:
            assert f"\n.. |{name}| replace:: " in text
        for claim in part.claims:
            assert claim.page in PAGES


def test_each_name_is_given_once() -> None:
    for kind in ("blocks", "numbers", "pages"):
        names = [name for part in PARTS for name in getattr(part, kind)]
        assert len(names) == len(set(names))
        assert NUMBERS not in names


def test_every_raw_result_tells_the_command_that_makes_it_again() -> None:
    found = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert len(found) >= 3
    for path in found:
        command = json.loads(path.read_text())["command"]
        assert re.match(r"(python -m bench\.\w+|python compare\.py)( |$)", command)


def change(path: Path, edit: Callable[[Any], None]) -> None:
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))


def dearer_frames(found: Any) -> None:
    found["costs"]["WebSocket, carry"]["down"] += 60


def another_value(found: Any) -> None:
    found["value_bytes"] += 1


def other_sockets(found: Any) -> None:
    for figure in found["figures"]:
        if figure["what"] == "memory":
            figure["samples"] = [7000.0]


def heavier_threads(found: Any) -> None:
    for server in found["servers"].values():
        for samples in server.values():
            samples[:] = [sample + 9000 for sample in samples]


@pytest.mark.parametrize(
    ("name", "edit", "pages"),
    [
        ("wire", dearer_frames, {"README.rst"}),
        ("wire", another_value, {"README.rst"}),
        (
            "servers",
            heavier_threads,
            {"docs/reference/servers.rst", "docs/reference/uwsgi.rst", "docs/results/servers.rst"},
        ),
        (
            "fanout",
            other_sockets,
            {
                "README.rst",
                "docs/explanation/compression.rst",
                "docs/explanation/speed.rst",
                "docs/results/fanout.rst",
            },
        ),
    ],
)
def test_a_changed_raw_result_is_found_and_followed(
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    edit: Callable[[Any], None],
    pages: set[str],
) -> None:
    assert main(["--check"], root=copy) == 0
    change(copy / "docs" / "results" / f"{name}.json", edit)
    assert main(["--check"], root=copy) == 1
    complaints = capsys.readouterr().err.splitlines()
    assert {line.partition(":")[0] for line in complaints} == pages
    assert len(complaints) == len(pages), "a line for each page"
    for page in pages:
        assert (copy / page).read_text() == PAGES[page], "a check changes nothing"
    assert main([], root=copy) == 0
    assert capsys.readouterr().out.splitlines() == [f"{page}: renewed" for page in sorted(pages)]
    assert main(["--check"], root=copy) == 0


def test_a_changed_figure_is_found_and_put_right(copy: Path) -> None:
    page = copy / "README.rst"
    page.write_text(page.read_text().replace("   670\n", "   671\n"))
    assert page.read_text() != PAGES["README.rst"]
    assert main(["--check"], root=copy) == 1
    assert main([], root=copy) == 0
    assert page.read_text() == PAGES["README.rst"]


def test_a_page_that_is_missing_is_made(copy: Path) -> None:
    (copy / "docs" / "results" / "fanout.rst").unlink()
    assert main(["--check"], root=copy) == 1
    assert main([], root=copy) == 0
    assert (copy / "docs/results/fanout.rst").read_text() == PAGES["docs/results/fanout.rst"]


def test_a_sentence_that_no_longer_holds_is_found(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def swift(found: Any) -> None:
        for figure in found["figures"]:
            if figure["what"].startswith("handshake"):
                figure["samples"] = [1.0]

    change(copy / "docs" / "results" / "fanout.json", swift)
    assert main([], root=copy) == 1, "new figures alone do not make it true"
    assert main(["--check"], root=copy) == 1
    complaint = "docs/explanation/speed.rst: it is not true that “**A WebSocket handshake** costs"
    assert capsys.readouterr().err.count(complaint) == 2


def test_a_sentence_that_is_worded_anew_is_to_be_claimed_anew(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = copy / "README.rst"
    page.write_text(page.read_text().replace("Requests are what costs", "Requests cost"))
    assert main(["--check"], root=copy) == 1
    assert "“Requests are what costs”" in capsys.readouterr().err


def test_a_missing_raw_result_is_one_line_for_each_page(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "docs" / "results" / "wire.json").unlink()
    assert main([], root=copy) == 1
    assert capsys.readouterr().err == "README.rst: there is no docs/results/wire.json\n"
    assert (copy / "README.rst").read_text() == PAGES["README.rst"]


def test_a_figure_that_a_raw_result_lacks_is_one_line(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_peers(found: Any) -> None:
        found["figures"] = [each for each in found["figures"] if each["server"] == "Pushlab"]

    change(copy / "docs" / "results" / "fanout.json", without_peers)
    assert main([], root=copy) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "there is no figure 'handshake / floor' of " in said


TEST_PART = Part(
    blocks={"table": lambda raw: f"It is {raw.json('raw')}."},
    numbers={"the answer": lambda raw: str(raw.json("raw"))},
    claims=[Claim("README.rst", "It is even", lambda raw: raw.json("raw") % 2 == 0)],
)


@pytest.fixture
def small(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Have a function that renews a page of this text where the raw result is 42."""
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "raw.json").write_text("42")

    def small(text: str) -> tuple[str, str]:
        (tmp_path / "README.rst").write_text(text)
        return renewed(tmp_path, "README.rst", [TEST_PART])

    return small


def test_blocks_and_numbers_are_filled(small: Callable[[str], tuple[str, str]]) -> None:
    page = "About |the\nanswer|.\n\n.. figures: table\n\n.. end of figures\n\nAnd so on.\n\n"
    end = ".. figures: numbers\n\n.. end of figures\n"
    _, after = small(page + end)
    assert after == (
        "About |the\nanswer|.\n\n.. figures: table\n\nIt is 42.\n\n.. end of figures\n\n"
        "And so on.\n\n.. figures: numbers\n\n.. |the answer| replace:: 42\n\n.. end of figures\n"
    )
    assert small(after) == (after, after)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (".. figures: unknown\n\n.. end of figures\n", "the name 'unknown'"),
        (".. figures: table\n\nand no end\n", "'.. figures: table' has no other end"),
        (
            ".. figures: table\n\nprose\n\n.. figures: table\n\n.. end of figures\n",
            "'.. figures: table' has no other end",
        ),
        ("a beginning\n\n.. end of figures\n", "'.. end of figures' has no other end"),
        ("|the answer| is undefined\n", "needs a block 'numbers'"),
    ],
)
def test_what_cannot_be_made_is_said(
    small: Callable[[str], tuple[str, str]], text: str, why: str
) -> None:
    with pytest.raises(Wrong, match=re.escape(why)):
        small(text)


def test_a_report_can_be_read_again() -> None:
    text = (ROOT / "docs" / "results" / "fanout.json").read_text()
    report = Report.from_json(text)
    assert Report.from_json(report.as_json()) == report
    assert report.figure("memory", 5000).clients == 5000
    with pytest.raises(LookupError, match="no figure 'memory' of Pushlab for 3"):
        report.figure("memory", 3)
