"""A training run's whole state in one safetensors file: tensors by name, everything else as JSON in its header.

Written beside its place and renamed into it, so a kill leaves the old one or the new one. Nothing is unpickled.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from training.loop import Held
    from training.progress import Progress


class Checkpoint(NamedTuple):
    progress: dict[str, Any]
    network: dict[str, Tensor]
    best: dict[str, Tensor]
    losses: Tensor
    optimizer: dict[int, dict[str, Tensor]]


def save(file: Path, progress: "Progress", network: dict[str, Tensor], held: "Held") -> None:
    tensors = {f"network.{name}": value for name, value in network.items()}
    tensors |= {f"best.{name}": value.clone() for name, value in held.best.items()}
    tensors["losses"] = held.losses
    for index, state in held.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    write(file, tensors, {"progress": json.dumps(asdict(progress))})


def load(file: Path) -> Checkpoint | None:
    """What `save` wrote, or None where there is nothing yet."""
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as stored:
        progress = json.loads(stored.metadata()["progress"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            optimizer.setdefault(int(index), {})[key] = value
    return Checkpoint(progress, _under("network.", tensors), _under("best.", tensors), tensors["losses"], optimizer)


def write(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """One safetensors file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata=metadata)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(file)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
