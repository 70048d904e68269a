"""The papers and public comparisons whose experiments can be repeated here, a module each."""

from pushlab.measure.papers.abril import Abril
from pushlab.measure.papers.kaazing import Kaazing
from pushlab.measure.papers.paper import Paper, Section
from pushlab.measure.papers.pimentel import Pimentel
from pushlab.measure.papers.shootout import Shootout

__all__ = ["PAPERS", "Abril", "Kaazing", "Paper", "Pimentel", "Section", "Shootout"]

#: By the name that the command line has for it.
PAPERS: dict[str, Paper] = {
    paper.name: paper for paper in (Kaazing(), Pimentel(), Abril(), Shootout())
}
