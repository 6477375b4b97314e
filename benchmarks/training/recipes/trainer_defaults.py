"""The Hugging Face Trainer on texts as it comes: float32, batches of 8, three epochs, 5e-5 falling in a line."""

from benchmarks.training.recipes.job import Answers, Job, perform
from benchmarks.training.recipes.trainer import train


def run_defaults(job: Job) -> Answers:
    return train(job, {})


if __name__ == "__main__":
    perform(run_defaults)
