"""Regraft, looked at every few batches, for `--scratch`: when was it as good? Looking is a part of its time."""

import torch

from benchmarks.training.recipes.job import Answers, Job, perform
from benchmarks.training.recipes.regraft import train


def run_watched(job: Job) -> Answers:
    return train(job, validate_every=10, patience=None)


if __name__ == "__main__":
    torch.set_num_interop_threads(1)
    perform(run_watched)
