"""The recipes: which data each is for, the rates that it is tried at, and how it is run."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.material import ROOT, WORK
from benchmarks.training.recipes.job import Job, Outcome, outcome_in

OTHERS_PYTHON = WORK / "venv" / "bin" / "python"


@dataclass(frozen=True)
class Contender:
    name: str
    module: str
    kinds: tuple[str, ...]
    rates: tuple[float, ...] = ()  # the best of them on validation is taken; none: the recipe has its own
    python: Path = Path(sys.executable)

    @property
    def usual_rate(self) -> float | None:
        return self.rates[len(self.rates) // 2] if self.rates else None

    def run(self, job: Job) -> Outcome:
        """In a process of its own. Raises CalledProcessError."""
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "job.json", Path(folder) / "outcome.json"
            job.write(given)
            command = [str(self.python), "-m", f"benchmarks.training.recipes.{self.module}", str(given), str(found)]
            subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
            return outcome_in(found)


CONTENDERS = (
    Contender("regraft", "regraft", ("text", "image")),
    Contender("trainer", "trainer", ("text",), (2e-5, 5e-5, 1e-4)),
    Contender("trainer-bf16", "trainer_bf16", ("text",), (2e-5, 5e-5, 1e-4)),
    Contender("trainer-defaults", "trainer_defaults", ("text",)),
    Contender("pytorch", "pytorch", ("image",), (3e-4, 1e-3, 3e-3)),
    Contender("fastai", "fastai", ("image",), (1e-3, 3e-3, 1e-2), OTHERS_PYTHON),
)
WATCHED = Contender("regraft, watched", "regraft_watched", ("text", "image"))
SCRATCH = Contender("from scratch", "scratch", ("text", "image"))
