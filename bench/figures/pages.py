"""Pages whose figures are made from raw results: blocks, numbers in sentences, whole pages.

A block stands between two comments, and is made anew each time::

    .. figures: wire

    (what the function of that name returns)

    .. end of figures

A number in a sentence is a substitution, such as |wire factor|. Those that a page uses are defined
in its block `numbers`, at its end. A sentence whose wording depends on the figures is a claim, and
must hold.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from bench.results import Results

#: Where a page defines the numbers that it uses.
NUMBERS = "numbers"

_BLOCK = re.compile(
    r"^\.\. figures: (?P<name>[^\n]*)\n\n"
    r"(?:(?!^\.\. figures: ).)*?"  # or a block without an end would take the text up to the next
    r"^\.\. end of figures$",
    re.MULTILINE | re.DOTALL,
)
_MARKER = re.compile(r"^\.\. (?:figures: .*|end of figures)$", re.MULTILINE)


class Wrong(Exception):
    """A page cannot be made from what there is; the message says why in one line."""


@lru_cache(maxsize=8)  # every number on a page is made from the same
def _results(text: str) -> Results:
    return Results.from_json(text)


class Raw:
    """The raw results in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def text(self, name: str) -> str:
        """Return what is in NAME.json."""
        try:
            return (self._folder / f"{name}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise Wrong(f"there is no docs/results/{name}.json") from None

    def json(self, name: str) -> Any:
        """Return what NAME.json says."""
        return json.loads(self.text(name))

    def results(self, name: str) -> Results:
        """Return what a comparison has left in NAME.json; nobody may change it."""
        return _results(self.text(name))


Made = TypeVar("Made")
#: Makes some text of a page from the raw results.
Maker = Callable[[Raw], str]


@dataclass(frozen=True)
class Claim:
    """A sentence of a page, in the page's own words, and what must be the case for it."""

    page: str
    sentence: str
    holds: Callable[[Raw], bool]


@dataclass(frozen=True)
class Part:
    """What is made of one raw result."""

    #: By the name that follows `.. figures: ` in the pages.
    blocks: Mapping[str, Maker] = field(default_factory=dict)
    #: By the name that stands between bars in the pages.
    numbers: Mapping[str, Maker] = field(default_factory=dict)
    #: Whole pages, by their path below the root.
    pages: Mapping[str, Maker] = field(default_factory=dict)
    claims: Sequence[Claim] = ()


def paths(root: Path, parts: Sequence[Part]) -> list[str]:
    """Return the README and all pages of the docs, with those that are yet to be made."""
    found = {"README.rst", *(name for part in parts for name in part.pages)}
    found |= {path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.rst")}
    return sorted(found)


def renewed(root: Path, page: str, parts: Sequence[Part]) -> tuple[str, str]:
    """Return what a page says, and what it should say."""
    path = root / page
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    raw = Raw(root / "docs" / "results")
    for part in parts:
        if page in part.pages:
            return before, _made(page, part.pages[page], raw)
    blocks = {name: maker for part in parts for name, maker in part.blocks.items()}
    numbers = {name: maker for part in parts for name, maker in part.numbers.items()}
    prose = _BLOCK.sub("", before)
    if stray := _MARKER.search(prose):
        raise Wrong(f"{stray[0]!r} has no other end")
    used = [name for name in numbers if _uses(prose, name)]
    if used and f".. figures: {NUMBERS}\n" not in before:
        raise Wrong(f"|{used[0]}| needs a block {NUMBERS!r} at the end")

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        if name == NUMBERS:
            text = "\n".join(
                f".. |{number}| replace:: {_made(number, numbers[number], raw)}"
                for number in sorted(used)
            )
        elif name in blocks:
            text = _made(name, blocks[name], raw)
        else:
            raise Wrong(f"nothing makes figures of the name {name!r}")
        return f".. figures: {name}\n\n{text}\n\n.. end of figures"

    return before, _BLOCK.sub(block, before)


def _made(name: str, maker: Callable[[Raw], Made], raw: Raw) -> Made:
    try:
        return maker(raw)
    except (LookupError, TypeError, ValueError) as error:  # of what is not in the raw result
        raise Wrong(f"{name} cannot be made: {error}") from error


def _uses(prose: str, number: str) -> bool:
    words = r"\s+".join(map(re.escape, number.split()))  # a line may end between two of them
    return re.search(rf"\|{words}\|", prose) is not None


def untrue(root: Path, page: str, text: str, parts: Sequence[Part]) -> list[str]:
    """Return, a line for each, what a page says that does not follow from the raw results."""
    raw = Raw(root / "docs" / "results")
    said = " ".join(text.split())
    wrong = []
    for claim in (claim for part in parts for claim in part.claims if claim.page == page):
        sentence = " ".join(claim.sentence.split())
        if sentence not in said:
            wrong.append(f"it does not say, as it is to be checked, “{sentence}”")
        elif not _made(sentence, claim.holds, raw):
            wrong.append(f"it is not true that “{sentence}”")
    return wrong
