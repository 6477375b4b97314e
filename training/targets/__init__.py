"""What a network is to say: one of the task's labels, or a number. All that depends on which of the two is here."""

from training.targets.base import Asked, Calibrated, Target, Worst
from training.targets.choice import target_for, target_of

__all__ = ["Asked", "Calibrated", "Target", "Worst", "target_for", "target_of"]
