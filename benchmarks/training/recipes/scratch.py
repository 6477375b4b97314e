"""The same network from random weights, until it gets no better; see training/whole.py."""

from benchmarks.training.recipes import regraft  # sets variables for torch's threads, so it comes before torch
from benchmarks.training.recipes.job import Answers, Job
from training import precision
from training.kinds import encoder_of
from training.network import Network
from training.whole import train_from_scratch

MOST_SECONDS = 7_200.0


def run(job: Job) -> Answers:
    source = regraft.source_of(job)
    encoder = encoder_of(source.card, source.preprocessor)
    network = Network(encoder, labels=job.classes, frozen=0.0, seed=job.seed)
    scratch, answers = train_from_scratch(network, source, precision.choose("auto"), MOST_SECONDS)
    curve = [moment.reached for moment in scratch.moments]
    # Each epoch does the same work; what else the machine did meanwhile is not to count.
    moments = [(number + 1) / len(curve) for number in range(len(curve))]
    return Answers(answers.tolist(), curve, moments)


if __name__ == "__main__":
    regraft.start(run)
