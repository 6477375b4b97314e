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
from tests.training.conftest import examples, save_backbone, write_task
from training.learning import SUFFIX

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("REGRAFT_KILL_SEED", str(random.SystemRandom().randrange(10**6))))
KILLS = 5
FIRST = 0.3  # of the time that an uninterrupted run takes; before, Python imports


class Run(NamedTuple):
    """`regraft train --run` on a task, with a home of its own."""

    task: Path
    home: Path

    def start(self) -> subprocess.Popen[bytes]:
        options = ["--task", str(self.task), "--home", str(self.home)]
        command = [sys.executable, "-m", "regraft", *options, "train", "--run", "it"]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self) -> Manifest:
        process = self.start()
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
        return self.store.manifest("it")

    @property
    def store(self) -> VersionStore:
        return VersionStore(str(self.home / "versions"))


@pytest.mark.slow
def test_killed_at_five_random_moments_it_ends_with_the_same_metrics_and_weights(tmp_path: Path) -> None:
    print(f"REGRAFT_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    rows = examples(1_200)
    file = write_task(tmp_path, save_backbone(tmp_path / "backbone"), rows, training={"epochs": 6})
    whole, broken = Run(file, tmp_path / "whole"), Run(file, tmp_path / "broken")
    started = time.monotonic()
    expected = whole.finish()
    took = time.monotonic() - started
    for _ in range(KILLS):
        moment = took * chance.uniform(FIRST, 1)
        process = broken.start()
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        print(f"killed after {moment:.1f} of {took:.1f} s: {process.returncode}")
        if process.returncode != -signal.SIGKILL:
            break  # what was killed before had brought it so far that nothing was left to kill
    found = broken.finish()
    assert (found.test, found.validation) == (expected.test, expected.validation)
    assert found.temperature == expected.temperature
    first, second = (load_file(run.store.fetch("it") / SUFFIX) for run in (whole, broken))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
