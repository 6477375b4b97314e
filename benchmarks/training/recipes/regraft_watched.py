"""Regraft, looked at every few batches, for `--scratch`: when was it as good? Looking is a part of its time."""

from functools import partial

from benchmarks.training.recipes import regraft  # sets variables for torch's threads, so it comes before torch

if __name__ == "__main__":
    regraft.start(partial(regraft.run, validate_every=15, patience=None))
