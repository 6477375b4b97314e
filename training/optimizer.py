"""How fast each group of layers learns, and when."""

import math

import torch
from torch import Tensor

from regraft.sections import Training
from training.epochs import Calendar
from training.network import Network
from training.stages import FEW, Stage

CLIP = 1.0
WEIGHT_DECAY, WEIGHT_DECAY_FEW = 1e-3, 1e-4
SQUARES = 0.999  # of gradients: how much of their mean stays from step to step


def make_optimizer(network: Network, stage: Stage, settings: Training, rows: int) -> torch.optim.Optimizer:
    """Each layer group learns the stage's `layer_decay` times as fast as the one above it."""
    groups = [
        {"params": group.parameters, "base": stage.learning_rate * stage.layer_decay**group.depth}
        for group in network.groups()
    ]
    decay = settings.weight_decay
    if decay is None:
        decay = WEIGHT_DECAY if rows >= FEW else WEIGHT_DECAY_FEW
    betas = (settings.momentum, SQUARES)
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=betas, weight_decay=decay, fused=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    step: int,
    calendar: Calendar,
    settings: Training,
    damping: float = 1.0,
) -> float:
    """For this step of the stage, from 0; returns the head's rate.

    Linear warm-up, then half a cosine down to 0 (Loshchilov and Hutter 2017) or a tenth after each `drop_epochs`; of
    a stage of several epochs, but no more than these, the last is at a tenth.
    """
    total = calendar.ends[-1]
    warmup = max(1, round(total * settings.warmup))
    if step < warmup:
        factor = (step + 1) / warmup
    elif settings.schedule == "step":
        drop = min(settings.drop_epochs, max(calendar.epochs - 1, 1))
        factor = 0.1 ** (calendar.place(step)[0] // drop)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor * damping
    return stage.learning_rate * factor * damping


def gradients(network: Network) -> list[Tensor]:
    """Of all that moves; what took no part in the loss has 0."""
    found = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            found.append(parameter.grad)
    return found


def clip_gradients(network: Network) -> dict[str, float]:
    """Bound the norm of all together; returns that of each layer group before, by name."""
    groups = {group.name: group.parameters for group in network.moving()}
    norms = [torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups.values()]
    total = torch.linalg.vector_norm(torch.stack(norms))
    for group in groups.values():
        torch.nn.utils.clip_grads_with_norm_(group, CLIP, total)
    return dict(zip(groups, torch.stack(norms).tolist(), strict=True))
