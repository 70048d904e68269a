"""Published experiments that can be repeated here, a module each."""

from bench.studies.abril import Abril
from bench.studies.base import Study
from bench.studies.kaazing import Kaazing
from bench.studies.pimentel import Pimentel
from bench.studies.shootout import Shootout

__all__ = ["STUDIES", "Abril", "Kaazing", "Pimentel", "Shootout", "Study"]

_ALL: tuple[Study, ...] = (Kaazing(), Pimentel(), Abril(), Shootout())
#: Every study by its name on the command line.
STUDIES = {study.name: study for study in _ALL}
