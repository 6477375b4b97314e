"""A training that is killed with -9 at random moments ends with the version that it would have made."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from regraft.versions import Manifest, VersionStore
from tests.training.conftest import examples, save_backbone, unmeasured, write_task
from training.learning import SUFFIX

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("REGRAFT_KILL_SEED", str(random.SystemRandom().randrange(10**6))))
KILLS = 5
BATCHES = "training.loop batch"  # begins what is said after each validation
SLIGHTLY = 0.1  # seconds


class Run(NamedTuple):
    """`regraft train --run` on a task, with a home of its own."""

    task: Path
    home: Path

    def start(self) -> subprocess.Popen[str]:
        options = ["--task", str(self.task), "--home", str(self.home)]
        command = [sys.executable, "-m", "regraft", *options, "train", "--run", "it"]
        return subprocess.Popen(
            command, cwd=ROOT, env=unmeasured(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> tuple[Manifest, int]:
        """And how often it validated."""
        process = self.start()
        _, said = process.communicate()
        assert process.returncode == 0, said
        return self.store.manifest("it"), said.count(BATCHES)

    def die(self, validations: int, later: float) -> None:
        """Be killed so many seconds after so many validations."""
        process = self.start()
        assert process.stderr is not None
        heard = (line for line in process.stderr if BATCHES in line)
        for _ in range(validations):
            assert next(heard, None), "ended before it was killed"
        time.sleep(later)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    @property
    def store(self) -> VersionStore:
        return VersionStore(str(self.home / "versions"))


@pytest.mark.slow
def test_killed_at_five_random_moments_it_ends_with_the_same_metrics_and_weights(tmp_path: Path) -> None:
    print(f"REGRAFT_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    rows = examples(1_200)
    file = write_task(tmp_path, save_backbone(tmp_path / "backbone"), rows, training={"epochs": 12})
    whole, broken = Run(file, tmp_path / "whole"), Run(file, tmp_path / "broken")
    expected, validations = whole.finish()
    for _ in range(KILLS):
        broken.die(chance.randint(1, validations // (KILLS + 1)), chance.uniform(0, SLIGHTLY))
    found, _ = broken.finish()
    assert (found.test, found.validation) == (expected.test, expected.validation)
    assert found.temperature == expected.temperature
    first, second = (load_file(run.store.fetch("it") / SUFFIX) for run in (whole, broken))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
