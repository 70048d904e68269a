"""Published experiments that can be repeated here, a module each."""

from bench.studies.abril import Abril
from bench.studies.base import Study
from bench.studies.kaazing import Kaazing
from bench.studies.pimentel import Pimentel
from bench.studies.shootout import Shootout

__all__ = ["STUDIES", "Abril", "Kaazing", "Pimentel", "Shootout", "Study"]

#: Every study by its name on the command line.
STUDIES: dict[str, Study] = {
    study.name: study for study in (Kaazing(), Pimentel(), Abril(), Shootout())
}
