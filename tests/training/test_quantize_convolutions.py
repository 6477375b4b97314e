from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import numpy_helper

from regraft.preprocessing import ImageSpec
from training.export import FP32, Exported, write_onnx
from training.images import ImageEncoder
from training.network import Network
from training.quantize import quantize
from training.quantize_convolutions import quantize_convolutions
from training.targets.labels import Probabilities

SPEC = ImageSpec(height=64, width=64, mean=(0.5,) * 3, std=(0.5,) * 3, max_pixels=1_000_000)


def exported(folder: Path, name: str) -> Path:
    """An untrained network that is sure of itself."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=0, img_size=64) if "vit" in name else timm.create_model(name)
    network = Network(ImageEncoder(model, SPEC), labels=3, frozen=0.5, seed=0)
    with torch.no_grad():
        pooled = network(torch.from_numpy(pictures(16))).pooled
        network.head.weight.mul_(3 / pooled.std() / network.head.weight.std() / network.width**0.5)
        network.head.bias.copy_(-network.head.weight @ pooled.mean(dim=0))
    write_onnx(Exported(network, Probabilities(1.0), (torch.zeros(2, network.width), torch.zeros(2))), folder / FP32)
    return folder / FP32


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 64, 64)).astype(np.float32)


def answers(file: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"])
def test_8_bits_answer_nearly_as_float32_and_alone_as_among_others(tmp_path: Path, name: str) -> None:
    plain, small = exported(tmp_path, name), tmp_path / "small.onnx"
    batches = [{"pixels": pictures(8, seed)} for seed in range(1, 3)]
    replaced = quantize(plain, small, batches) + quantize_convolutions(small, batches)
    assert replaced >= 8
    pixels = pictures(12, seed=9)
    together = answers(small, pixels)
    assert 0 < np.abs(together - answers(plain, pixels)).max() < 0.2
    alone = np.concatenate([answers(small, pixels[place : place + 1]) for place in range(12)])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_every_convolution_has_a_scale_for_each_of_its_channels_and_runs_in_whole_numbers(tmp_path: Path) -> None:
    file = exported(tmp_path, "test_resnet")
    count = quantize_convolutions(file, [{"pixels": pictures(8)}])
    graph = onnx.load(file).graph
    stored = {one.name: one for one in graph.initializer}
    kinds = {name: (one.data_type, list(one.dims)) for name, one in stored.items()}
    weights = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == count > 8
    for node in convolutions:
        values, scales, _ = weights[node.input[1]].input
        assert kinds[values][0] == onnx.TensorProto.INT8
        assert np.abs(numpy_helper.to_array(stored[values]).astype(int)).max() <= 64  # 2 x 255 x 64 fit into 16 bits
        assert kinds[scales][1] == kinds[values][1][:1]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    run = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert (run["Conv"], run["QLinearConv"]) == (0, count)


def test_the_first_convolutions_can_be_spared(tmp_path: Path) -> None:
    file = exported(tmp_path, "test_resnet")
    graph = onnx.load(file).graph
    every = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    assert quantize_convolutions(file, [{"pixels": pictures(8)}], spared=2.5 / len(every)) == len(every) - 2
    kinds = {one.name: one.data_type for one in onnx.load(file).graph.initializer}
    assert [name for name in every if kinds.get(name) == onnx.TensorProto.FLOAT] == every[:2]


def test_padding_is_part_of_its_convolution(tmp_path: Path) -> None:
    """TensorFlow's networks pad by the size of what comes in."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures(2)))
        network = Network(ImageEncoder(model, SPEC), labels=3, frozen=0.5, seed=0)
        network.learning_mode(on=False)
        torch.testing.assert_close(network(torch.from_numpy(pictures(2))).pooled, expected, atol=1e-4, rtol=1e-4)
    write_onnx(Exported(network, Probabilities(1.0), (torch.zeros(2, network.width), torch.zeros(2))), tmp_path / FP32)
    quantize_convolutions(tmp_path / FP32, [{"pixels": pictures(2)}])
    assert {node.op_type for node in onnx.load(tmp_path / FP32).graph.node}.isdisjoint({"Pad", "Ceil", "Mul"})
