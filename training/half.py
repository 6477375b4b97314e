"""float16 for GPUs: half the memory, and products that run on tensor cores. What goes in and comes out keeps its type.

What is too large or too small for 16 bits becomes the largest or smallest there is, such as a mask of minus infinity.
"""

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def halve(source: Path, target: Path) -> None:
    """Write `source` with every weight and every step in float16 to `target`."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
