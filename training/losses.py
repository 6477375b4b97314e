"""What training makes small: one figure for each row, which the loop weighs and averages.

labels of the training part -> cross-entropy, or focal loss where one label is far more frequent than another
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from regraft.task import Training

IMBALANCE = 10  # times as frequent, from which on the focal loss is taken
FOCUS = 2.0  # gamma in Lin et al. 2017, "Focal Loss for Dense Object Detection", who found 2 the best
TEMPERATURE = 0.1  # as in Khosla et al. 2020


class Loss(NamedTuple):
    """`label_weights` (labels,) multiply the loss of each row by its label's."""

    name: Literal["cross_entropy", "focal"]
    reason: str
    label_weights: Tensor

    def of(self, logits: Tensor, truth: Tensor) -> Tensor:
        """(rows, labels) and (rows,) -> (rows,), without the weights."""
        losses = F.cross_entropy(logits.float(), truth, reduction="none")
        return losses if self.name == "cross_entropy" else (1 - (-losses).exp()) ** FOCUS * losses


def choose(settings: Training, truth: Tensor, labels: int) -> Loss:
    """The one that was asked for; `auto` takes the focal loss at an imbalance of 10:1 or worse."""
    counts = torch.bincount(truth, minlength=labels)
    present = counts[counts > 0]
    ratio = float(present.max() / present.min())
    weights = torch.ones(labels)
    if settings.label_weights == "balanced":
        weights = len(truth) / (len(present) * counts.clamp(min=1))
    if settings.loss != "auto":
        return Loss(settings.loss, "as the task file says", weights)
    reason = f"the most frequent label is {ratio:.1f} times as frequent as the rarest"
    return Loss("focal" if ratio >= IMBALANCE else "cross_entropy", reason, weights)


def contrastive(pooled: Tensor, truth: Tensor) -> Tensor:
    """Rows of one label close together, others apart: SupCon (Khosla et al. 2020, eq. 2); (rows, width) -> (rows,).

    0 for a row that is the only one of its label in the batch.
    """
    directions = F.normalize(pooled.float(), dim=1)
    itself = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    scores = (directions @ directions.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    likelihood = scores - scores.logsumexp(dim=1, keepdim=True)
    same = (truth[:, None] == truth[None, :]) & ~itself
    return -likelihood.masked_fill(~same, 0.0).sum(dim=1) / same.sum(dim=1).clamp(min=1)
