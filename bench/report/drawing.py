"""What the plots and the page that has them agree on: colours, and what is said of a plot.

It is apart from plots.py, which draws, because that takes Matplotlib, and seconds to import it.
"""

from pathlib import Path
from typing import NamedTuple

from pushlab.transports import TRANSPORTS

#: The page's colours by day. report.html replaces them by its own variables, to follow the night.
HUES = {name: transport.colour.light for name, transport in TRANSPORTS.items()}
TEXT, MUTED, EDGE, PAPER = "#1b2333", "#596274", "#dedcd5", "#ffffff"


class Plot(NamedTuple):
    """A plot: what it shows, and where it is."""

    name: str
    title: str
    caption: str  #: how to read it
    alt: str  #: what it shows, for who does not see it
    png: Path
    svg: Path
