"""The tuned Trainer in bfloat16, whether or not that is faster here."""

from benchmarks.training.recipes.job import Answers, Job, perform
from benchmarks.training.recipes.trainer import TUNED, train


def run_bf16(job: Job) -> Answers:
    return train(job, TUNED | {"bf16": True})


if __name__ == "__main__":
    perform(run_bf16)
