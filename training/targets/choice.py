"""The target that a task has."""

from collections.abc import Sequence

from regraft.answers import Answers, Labels
from regraft.task import Task
from training.data import Row
from training.targets.base import Target
from training.targets.labels import LabelTarget
from training.targets.numbers import NumberTarget


def target_for(answers: Answers) -> Target:
    """For comparing answers that were given already."""
    return LabelTarget(answers) if isinstance(answers, Labels) else NumberTarget(answers, 0.0, 1.0, 0.9)


def target_of(task: Task, train: Sequence[Row]) -> Target:
    """Numbers are measured by the mean and the deviation of the training part."""
    answers = task.answers
    return (
        LabelTarget(answers) if isinstance(answers, Labels) else NumberTarget.over(answers, train, task.export.interval)
    )
