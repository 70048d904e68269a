"""The papers and public comparisons whose experiments can be repeated here, a module each."""

from bench.studies.abril import Abril
from bench.studies.base import Study
from bench.studies.kaazing import Kaazing
from bench.studies.pimentel import Pimentel
from bench.studies.shootout import Shootout

__all__ = ["PAPERS", "Abril", "Kaazing", "Pimentel", "Shootout", "Study"]

#: By the name that the command line has for it.
STUDIES: dict[str, Study] = {
    study.name: study for study in (Kaazing(), Pimentel(), Abril(), Shootout())
}
