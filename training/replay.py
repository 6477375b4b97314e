"""Cuts a model between any two layers, whatever it hands them: its own forward pass runs, and of its layers only those
that are asked for.

Layers before them hand on what they are given, the first of them takes the states that it is to go on from, and the
first after them ends the pass. So masks, position biases and last norms stay the model's own business. What it does
before its layers is done again each time, on any inputs of the same shape, which costs next to nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from training.network import Encoder, Hidden

PROBE_TOLERANCE = 1e-4  # what summing in another order may change; a wrong path through the layers changes far more


class Row:
    """Layers that a forward pass calls one after the other, each with what the one before it has returned."""

    def __init__(self, layers: Sequence[nn.Module] = ()) -> None:
        self.layers = list(layers)

    @classmethod
    def of(cls, model: nn.Module, forward: Callable[[], object]) -> Self:
        """The longest in `model`, as one pass shows it; empty where there is none. Whether going through it in parts
        is what the model does as a whole remains to be seen."""
        lists = [one for one in model.modules() if isinstance(one, nn.ModuleList | nn.Sequential) and len(one) > 1]
        calls: list[nn.Module] = []
        returned: dict[nn.Module, int] = {}  # how many things; 0: states alone

        def note(layer: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            calls.append(layer)
            first = result[0] if isinstance(result, tuple) else result
            if given and all(isinstance(one, Tensor) and one.dim() == 3 for one in (given[0], first)):
                returned[layer] = len(result) if isinstance(result, tuple) else 0

        hooks = [layer.register_forward_hook(note) for layer in {layer for one in lists for layer in one}]
        try:
            with torch.no_grad():
                forward()
        finally:
            for hook in hooks:
                hook.remove()
        often = Counter(calls)
        rows = [one for one in lists if all(often[layer] == 1 and layer in returned for layer in one)]
        found = max(rows, key=len, default=())
        layers: list[Any] = list(found)
        for place, layer in enumerate(layers):
            layer.__class__ = _in_parts(type(layer))
            layer.place, layer.returned = place, returned[layer]
        return cls(layers)

    def run(self, forward: Callable[[], Tensor], part: range, states: Tensor | None = None) -> Tensor:
        """What `part` of the layers makes of `states`, or else of what the pass itself comes to: what the next layer
        would take, and after the last what `forward` returns."""
        if not self.layers:
            return forward()
        before = _ASKED.set(_Asked(part, states))
        try:
            return forward()
        except _Reached as reached:
            return reached.states
        finally:
            _ASKED.reset(before)


class _Asked(NamedTuple):
    part: range
    states: Tensor | None


_ASKED: ContextVar[_Asked | None] = ContextVar("_ASKED", default=None)


class _Reached(BaseException):
    def __init__(self, states: Tensor) -> None:
        self.states = states


def _in_parts(kind: Any) -> Any:
    """The class of a layer of this class that knows when it is left out."""

    def forward(self: Any, hidden_states: Tensor, *given: Any, **named: Any) -> Any:
        asked = _ASKED.get()
        if asked is not None:
            if self.place == asked.part.stop:
                raise _Reached(hidden_states)
            if self.place < asked.part.start:
                return (hidden_states, *[None] * (self.returned - 1)) if self.returned else hidden_states
            if self.place == asked.part.start and asked.states is not None:
                hidden_states = asked.states
        return kind.forward(self, hidden_states, *given, **named)

    return type(kind.__name__, (kind,), {"forward": forward})


def holds(encoder: Encoder, whole: Tensor, *inputs: Tensor) -> bool:
    """Whether `encoder`, cut at its layers, comes to the vectors `whole`, (batch, width), of the model as it is; and
    every layer has as many positions."""
    layers = len(encoder.layers)
    try:
        first = encoder.embed(*inputs)
        for boundary in (0, layers // 2, layers):
            below = encoder.run(first, range(boundary))
            above = encoder.pool(encoder.run(below, range(boundary, layers)))
            if below.states.shape[1] != first.states.shape[1] or above.shape != whole.shape:
                return False
            if not (above - whole).abs().max() <= PROBE_TOLERANCE:
                return False
    except (TypeError, RuntimeError, AttributeError, ValueError, LookupError, AssertionError):
        return False
    return True


def hidden_of(states: Tensor) -> Hidden:
    """(batch, positions, width) none of which is padding."""
    return Hidden(states, torch.ones(states.shape[:2], dtype=torch.long))
