"""float16 for GPUs: half the memory, and products that run on tensor cores. What goes in and comes out keeps its type.

What is too large or too small for 16 bits becomes the largest or smallest there is, such as a mask of minus infinity.
What makes answers of the network's outputs stays in float32: of a number such as 2023.4, 16 bits hold 2023.
"""

from pathlib import Path

import onnx
from onnx import GraphProto
from onnx.shape_inference import infer_shapes
from onnx.utils import Extractor
from onnxruntime.transformers.float16 import convert_float_to_float16

ANSWERING = "/answering/"  # how names of the steps begin that `Exported.answering` became
OWN = "float32."  # how names within the part that stays in float32 begin, so that it shares no weight


def halve(source: Path, target: Path) -> None:
    """Write `source` to `target` with every weight and every step up to the network's outputs in float16."""
    model = infer_shapes(onnx.load(source))
    given = _given(model.graph)
    if not given:  # another's graph, of which nothing is told apart
        onnx.save(convert_float_to_float16(model, keep_io_types=True), target)
        return
    inputs, (answers, *others) = ([one.name for one in part] for part in (model.graph.input, model.graph.output))
    whole = Extractor(model)
    half = convert_float_to_float16(whole.extract_model(inputs, [*given, *others]), keep_io_types=True)
    last = whole.extract_model(given, [answers]).graph
    shared = {*given, answers, ""}
    for node in last.node:
        for names in (node.input, node.output):
            names[:] = [name if name in shared else OWN + name for name in names]
    for weight in last.initializer:
        weight.name = OWN + weight.name
    half.graph.node.extend(last.node)
    half.graph.initializer.extend(last.initializer)
    del half.graph.output[:]
    half.graph.output.extend(model.graph.output)
    onnx.save(half, target)


def _given(graph: GraphProto) -> list[str]:
    """What the network gives to the steps that make answers of it."""
    steps = [node for node in graph.node if node.name.startswith(ANSWERING)]
    constant = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    known = constant | {one.name for one in graph.initializer} | {name for node in steps for name in node.output}
    return sorted({name for node in steps for name in node.input if name} - known)
