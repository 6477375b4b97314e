"""What training makes small: one figure for each row, which the loop weighs and averages.

labels of the training part -> cross-entropy, or focal loss where one label is far more frequent than another
numbers of the training part, in deviations -> squares, or Huber's loss where some are far out
"""

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from regraft.sections import Training

IMBALANCE = 10  # times as frequent, from which on the focal loss is taken
POWERS = {"equal": 0.0, "root": 0.5, "balanced": 1.0}  # of how rare a label is, which its rows count for
FOCUS = 2.0  # gamma in Lin et al. 2017, "Focal Loss for Dense Object Detection", who found 2 the best
TEMPERATURE = 0.1  # as in Khosla et al. 2020
FAR = 4.0  # deviations that next to no row of a normal distribution is away
OUTLIERS = 0.001  # of the rows that are further, from which on Huber's loss is taken: normally there are 0.00006
ROBUST = 1.4826  # times the median distance from the median is the deviation, where numbers are normal


class Loss(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str: ...

    def weights(self, truth: Tensor) -> Tensor:
        """(rows,): how much each counts by what its truth is."""

    def of(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """(rows, outputs) and (rows,) -> (rows,), without the weights."""


class OfLabels(NamedTuple):
    """`label_weights` (labels,) multiply the loss of each row by its label's."""

    name: Literal["cross_entropy", "focal"]
    reason: str
    label_weights: Tensor

    def weights(self, truth: Tensor) -> Tensor:
        return self.label_weights[truth]

    def of(self, logits: Tensor, truth: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.float(), truth, reduction="none")
        return losses if self.name == "cross_entropy" else (1 - (-losses).exp()) ** FOCUS * losses


class OfNumbers(NamedTuple):
    name: Literal["mse", "huber"]
    reason: str

    def weights(self, truth: Tensor) -> Tensor:
        return torch.ones(len(truth))

    def of(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Huber's is that of 1964: squares within one deviation, beyond it no steeper."""
        values = outputs[:, 0].float()
        if self.name == "mse":
            return F.mse_loss(values, truth, reduction="none")
        return F.huber_loss(values, truth, reduction="none")


def choose_for_numbers(settings: Training, truth: Tensor) -> OfNumbers:
    """The one that was asked for; `auto` takes Huber's where more are far out than chance explains."""
    if settings.loss == "mse" or settings.loss == "huber":
        return OfNumbers(settings.loss, "as the task file says")
    off = (truth - truth.median()).abs()
    usual = ROBUST * off[off > 0].median()  # numbers far out make a deviation large, and hide behind it
    far = float((off > FAR * usual).float().mean())
    reason = f"{far:.2%} of the numbers are more than {FAR:.0f} robust deviations from the median"
    return OfNumbers("huber" if far > OUTLIERS else "mse", reason)


def choose(settings: Training, truth: Tensor, labels: int) -> OfLabels:
    """The one that was asked for; `auto` takes the focal loss at an imbalance of 10:1 or worse."""
    counts = torch.bincount(truth, minlength=labels)
    present = counts[counts > 0]
    ratio = float(present.max() / present.min())
    weights = (len(truth) / (len(present) * counts.clamp(min=1))) ** POWERS[settings.label_weights]
    if settings.loss == "cross_entropy" or settings.loss == "focal":
        return OfLabels(settings.loss, "as the task file says", weights)
    reason = f"the most frequent label is {ratio:.1f} times as frequent as the rarest"
    return OfLabels("focal" if ratio >= IMBALANCE else "cross_entropy", reason, weights)


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
