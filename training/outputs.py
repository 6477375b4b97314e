"""What the network says of many examples, from their hidden states, without learning anything."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from training.cache import HiddenStates, batches_by_length
from training.inference import infer
from training.network import Network
from training.processes import ALONE, Team

EVALUATION_BATCH = 64
ABSENT = -100.0  # bias of a label that no row has


class Outputs(NamedTuple):
    pooled: NDArray[np.float32]  # (examples, width)
    adapted: NDArray[np.float32]  # (examples, width)
    logits: NDArray[np.float32]  # (examples, labels)


def over_all(network: Network, hidden: HiddenStates, dtype: torch.dtype, team: Team = ALONE) -> Outputs:
    """Without learning anything; each process runs its share and gets all."""
    network.learning_mode(on=False)
    device = network.head.weight.device
    widths = (network.width, network.width, network.head.out_features)
    outputs = [torch.zeros(len(hidden), width) for width in widths]

    def keep(indices: list[int]) -> None:
        for whole, part in zip(outputs, network.suffix(hidden.batch(indices).to(device)), strict=True):
            whole[indices] = part.float().cpu()

    batches = list(batches_by_length(hidden.lengths.tolist(), EVALUATION_BATCH))
    infer(keep, batches[team.part][::-1], dtype, device)  # the longest are not left for last
    team.add_up(outputs)
    return Outputs(*(whole.numpy() for whole in outputs))


def fit_head(network: Network, hidden: HiddenStates, truth: Tensor, weights: Tensor, dtype: torch.dtype) -> None:
    """A logistic regression on the vectors as they are now."""
    vectors = over_all(network, hidden, dtype, ALONE).adapted
    model = LogisticRegression(max_iter=1000).fit(vectors, truth.numpy(), sample_weight=weights.numpy())
    weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
    if len(model.classes_) == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(ABSENT)
        network.head.weight[model.classes_] = weight.to(network.head.weight.device)
        network.head.bias[model.classes_] = bias.to(network.head.bias.device)
