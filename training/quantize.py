"""int8 whose answers do not depend on their neighbours: each token's activations get a scale of their own.

    x (..., k) -> smoothed -> divided by the token's scale, its largest |x| / 127 -> 8-bit integers
               -> integer product with the 8-bit weights -> times the token's scale and the weight column's scale

ONNX Runtime's dynamic quantisation takes one scale for a whole batch, padding included, so a text's answer depends on
what it is batched with. Scales by token make integer products of a text the same in every company, at nearly its
speed, and answers are nearer to float32 (measured on MiniLM). Smoothing divides the few channels that are large by a
constant and multiplies the weights by it (Xiao et al. 2023, "SmoothQuant"), which halved the labels that change.
Embedding tables become 8-bit with a scale for each row. Product and column scales are one operator of ONNX Runtime's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LARGEST = 127
ZERO = 128  # of the unsigned activations: processors multiply unsigned by signed bytes fastest
SMALL_TABLE = 1024  # rows; a smaller embedding stays as it is
TINY = 1e-9  # so that a token of zeros has a scale
SMALLEST = 1e-5  # size of a channel that smoothing still tells from 0
RUNTIME = "com.microsoft"  # ONNX Runtime's own operators


def quantize(source: Path, target: Path, batches: Iterable[Mapping[str, NDArray[np.int64]]]) -> int:
    """Write `source` with 8-bit products and tables to `target`; returns how many operators were replaced.

    `batches` are inputs of the graph, as it will see them; the sizes of its channels are taken from them.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    rewriting = _Rewriting(weights, _smoothing(model, weights, batches))
    nodes = [new for node in graph.node for new in rewriting.replace(node)]
    used = {name for node in nodes for name in node.input}
    kept = [one for one in (*graph.initializer, *rewriting.initializers) if one.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    model.opset_import.append(helper.make_opsetid(RUNTIME, 1))
    onnx.checker.check_model(model)
    onnx.save(model, target)
    return rewriting.replaced


def _smoothing(
    model: ModelProto, weights: dict[str, NDArray[np.float32]], batches: Iterable[Mapping[str, NDArray[np.int64]]]
) -> dict[str, NDArray[np.float32]]:
    """What each channel of each activation is divided by: the root of its size over that of its weights, mean 1."""
    products: dict[str, list[NDArray[np.float32]]] = defaultdict(list)  # activation -> the weights it is multiplied by
    for node in model.graph.node:
        if node.op_type == "MatMul" and _is_matrix(weights.get(node.input[1])):
            products[node.input[0]].append(weights[node.input[1]])
    factors = {}
    for name, size in _channel_sizes(model, list(products), batches).items():
        weight_size = np.max([np.abs(weight).max(axis=1) for weight in products[name]], axis=0)
        logs = 0.5 * (np.log(np.maximum(size, SMALLEST)) - np.log(np.maximum(weight_size, SMALLEST)))
        factors[name] = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def _channel_sizes(
    model: ModelProto, names: list[str], batches: Iterable[Mapping[str, NDArray[np.int64]]]
) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude in each channel of these activations."""
    if not names:
        return {}
    probed = ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    sizes: dict[str, NDArray[np.float32]] = {}
    for batch in batches:
        for name, values in zip(names, session.run(names, batch), strict=True):
            largest = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            sizes[name] = np.maximum(sizes.get(name, largest), largest)
    return sizes


def _is_matrix(weight: NDArray[np.float32] | None, *, at_least: int = 0) -> bool:
    return weight is not None and weight.ndim == 2 and weight.dtype == np.float32 and len(weight) >= at_least


class _Rewriting:
    def __init__(self, weights: dict[str, NDArray[np.float32]], smoothing: dict[str, NDArray[np.float32]]) -> None:
        self._weights = weights
        self._smoothing = smoothing
        self._quantized: dict[str, tuple[str, str]] = {}  # activation -> its bytes and its scales, shared by q, k and v
        self.replaced = 0
        self.initializers = [
            numpy_helper.from_array(np.array([-1], np.int64), "int8.last_axis"),
            numpy_helper.from_array(np.array(1 / LARGEST, np.float32), "int8.step"),
            numpy_helper.from_array(np.array([TINY], np.float32), "int8.tiny"),
            numpy_helper.from_array(np.array(1, np.float32), "int8.one"),
            numpy_helper.from_array(np.array(ZERO, np.uint8), "int8.zero"),
            numpy_helper.from_array(np.array([ZERO], np.uint8), "int8.zeros"),
            numpy_helper.from_array(np.array(0, np.int8), "int8.weight_zero"),
        ]

    def replace(self, node: NodeProto) -> Iterable[NodeProto]:
        """`node`, or what does its work in 8 bits."""
        if node.op_type == "MatMul" and _is_matrix(self._weights.get(node.input[1])):
            return self._matmul(node)
        if node.op_type == "Gather" and _is_matrix(self._weights.get(node.input[0]), at_least=SMALL_TABLE):
            return self._gather(node)
        return [node]

    def _matmul(self, node: NodeProto) -> list[NodeProto]:
        x, weight = node.input
        name = f"int8.{self.replaced}"
        self.replaced += 1
        self._store(name, *_rounded(self._weights[weight] * self._smoothing[x][:, None], axis=0))
        nodes = [] if x in self._quantized else self._activation(x, len(self._weights[weight]))
        data, scale = self._quantized[x]
        given = [data, f"{name}.weight", "int8.one", f"{name}.scale", "int8.zero", "int8.weight_zero"]
        return [
            *nodes,
            helper.make_node("MatMulIntegerToFloat", given, [f"{name}.columns"], domain=RUNTIME),
            helper.make_node("Mul", [f"{name}.columns", scale], list(node.output)),
        ]

    def _activation(self, x: str, width: int) -> list[NodeProto]:
        """One scale a token; QuantizeLinear takes them along the first axis of (tokens of the batch, width)."""
        q = f"int8.{x}"
        rows = f"int8.rows_of_{width}"
        if all(one.name != rows for one in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.array([-1, width], np.int64), rows))
        self.initializers.append(numpy_helper.from_array(1 / self._smoothing[x], f"{q}.factors"))
        self._quantized[x] = (f"{q}.bytes", f"{q}.scale")
        return [
            helper.make_node("Mul", [x, f"{q}.factors"], [f"{q}.smooth"]),
            helper.make_node("Abs", [f"{q}.smooth"], [f"{q}.abs"]),
            helper.make_node("ReduceMax", [f"{q}.abs", "int8.last_axis"], [f"{q}.max"], keepdims=1),
            helper.make_node("Max", [f"{q}.max", "int8.tiny"], [f"{q}.size"]),
            helper.make_node("Mul", [f"{q}.size", "int8.step"], [f"{q}.scale"]),
            helper.make_node("Reshape", [f"{q}.scale", "int8.last_axis"], [f"{q}.scales"]),
            helper.make_node("Shape", [f"{q}.scales"], [f"{q}.count"]),
            helper.make_node("Expand", ["int8.zeros", f"{q}.count"], [f"{q}.zeros"]),
            helper.make_node("Reshape", [f"{q}.smooth", rows], [f"{q}.flat"]),
            helper.make_node("QuantizeLinear", [f"{q}.flat", f"{q}.scales", f"{q}.zeros"], [f"{q}.rows"], axis=0),
            helper.make_node("Shape", [x], [f"{q}.shape"]),
            helper.make_node("Reshape", [f"{q}.rows", f"{q}.shape"], [f"{q}.bytes"]),
        ]

    def _gather(self, node: NodeProto) -> list[NodeProto]:
        table, indices = node.input
        name = f"int8.{self.replaced}"
        self.replaced += 1
        self._store(name, *_rounded(self._weights[table], axis=1))
        return [
            helper.make_node("Gather", [f"{name}.weight", indices], [f"{name}.bytes"]),
            helper.make_node("Cast", [f"{name}.bytes"], [f"{name}.real"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}.scale", indices], [f"{name}.scales"]),
            helper.make_node("Mul", [f"{name}.real", f"{name}.scales"], list(node.output)),
        ]

    def _store(self, name: str, rounded: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
        self.initializers.append(numpy_helper.from_array(rounded, f"{name}.weight"))
        self.initializers.append(numpy_helper.from_array(scale, f"{name}.scale"))


def _rounded(weight: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """8-bit weights and their scales: one a column (axis 0), or one a row (axis 1) as (rows, 1)."""
    sizes = np.abs(weight)
    scale = np.maximum((_pairs(sizes) if axis == 0 else sizes).max(axis=axis, keepdims=True), TINY) / LARGEST
    rounded = np.clip(np.round(weight / scale), -LARGEST, LARGEST).astype(np.int8)
    return rounded, (scale if axis == 1 else scale[0]).astype(np.float32)


def _pairs(sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(k, n) -> (half of k, n): what two weights that follow each other in a column are together.

    Processors without VNNI add the products of two bytes in 16 bits, which hold 255 x 128 and overflow, without a sign
    of it, beyond 32,767. Two weights that are at most 127 together, and 128 when rounded, fit on all of them.
    """
    even = np.pad(sizes, [(0, len(sizes) % 2), (0, 0)])
    return even[::2] + even[1::2]
