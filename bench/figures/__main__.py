"""Renew the figures in the README and the docs: `python -m bench.figures`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.figures import comparison, fanout, memory, wire
from bench.figures.pages import Part, Wrong, paths, renewed, untrue
from bench.processes import ROOT

#: What there is to publish, a module for each raw result.
PARTS: tuple[Part, ...] = (wire.PART, comparison.PART, fanout.PART, memory.PART)


def main(
    arguments: Sequence[str] | None = None, *, root: Path = ROOT, parts: Sequence[Part] = PARTS
) -> int:
    """Renew or check all pages; return 1 if one disagrees, or cannot be made to agree."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.figures",
        description="Renew the figures in the README and the docs from docs/results/*.json.",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail if a page disagrees"
    )
    options = parser.parse_args(arguments)
    complaints = 0
    for page in paths(root, parts):
        try:
            before, after = renewed(root, page, parts)
            wrong = untrue(root, page, after, parts)
        except Wrong as reason:
            before = after = ""
            wrong = [str(reason)]
        if before != after:
            if options.check:
                wrong.insert(0, "its figures are not those of docs/results, see `make figures`")
            else:
                (root / page).parent.mkdir(parents=True, exist_ok=True)
                (root / page).write_text(after, encoding="utf-8")
                sys.stdout.write(f"{page}: renewed\n")
        if wrong:
            complaints += 1
            sys.stderr.write(f"{page}: {'; '.join(wrong)}\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
