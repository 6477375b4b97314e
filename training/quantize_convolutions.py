"""int8 for convolutions, whose answers do not depend on their neighbours: every scale is a constant.

    float32 graph -> constants folded -> ranges of its feature maps on real pictures
                  -> 8-bit convolutions, 7 bits and a scale for each output channel, and 8-bit sums of what they give

Everything else stays in float32: pooling, head, softmax, the features for drift. Between two convolutions of ReLU or
ReLU6 nothing is turned into float32 and back. The file says which values are 8-bit (QuantizeLinear and
DequantizeLinear); ONNX Runtime makes integer convolutions of them when it loads it.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

BOUNDS = frozenset({"Relu", "Clip"})  # become the range of the values before them


def quantize_convolutions(file: Path, batches: Iterable[Mapping[str, NDArray[Any]]], spared: float = 0.0) -> int:
    """Make the graph in `file` one with 8-bit convolutions, but for the first share of `spared`; returns how many.

    `batches` are inputs of the graph, as it will see them; the ranges of its feature maps are taken from them.
    """
    with TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        graph = _folded(file, folded)
        convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
        chosen = convolutions[int(len(convolutions) * spared) :]
        if chosen:
            quantize_static(
                folded,
                file,
                _Reader(batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,  # 7 bits: processors without VNNI add two products in 16 bits, and 8 overflow them
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Add", *BOUNDS],
                nodes_to_quantize=list(_with_what_follows(graph, set(chosen))),
            )
    return len(chosen)


def _folded(source: Path, target: Path) -> GraphProto:
    """What is known beforehand is computed, and padding becomes a part of its convolution."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    add_pre_process_metadata(model)
    onnx.save(model, target)
    return model.graph


def _with_what_follows(graph: GraphProto, chosen: set[str]) -> Iterator[str]:
    """The names of these convolutions, and of what comes after them and nothing else: bounds and sums."""
    maps: set[str] = set()
    for node in graph.node:  # none comes before what it takes
        inputs = node.input[:1] if node.op_type in BOUNDS else node.input
        if node.name in chosen or (node.op_type in {"Add", *BOUNDS} and maps.issuperset(inputs)):
            maps.update(node.output)
            yield node.name


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """As ONNX Runtime wants it."""

    def __init__(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        return next(self._batches, None)
