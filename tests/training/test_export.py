import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from regraft.answers import Labels, Numbers
from regraft.errors import VersionRefused
from regraft.preprocessing import Encoding, TextPreprocessor
from regraft.sections import Export
from regraft.task import Task
from regraft.versions import Artifact
from tests.training.conftest import LABELS
from training import artifacts
from training.backbone import open_backbone, open_preprocessor
from training.dataset import read_dataset
from training.export import (
    FP32,
    Exported,
    Parity,
    check_parity,
    principal_components,
    spread_by_length,
    write_golden,
    write_onnx,
)
from training.half import ANSWERING, halve
from training.intervals import Intervals
from training.network import Network
from training.quantize import quantize
from training.runtime import Scorer
from training.targets import target_for
from training.targets.labels import Probabilities
from training.targets.numbers import NumberTarget
from training.text import ATTENTION, TextEncoder

TARGET = target_for(Labels(LABELS))


class Bench:
    """An untrained network with a head that is sure of itself, exported once for all tests."""

    def __init__(self, task: Task, folder: Path) -> None:
        card = open_backbone(task.backbone)
        self.folder = folder
        self.preprocessor: TextPreprocessor = open_preprocessor(task, card)
        self.rows = read_dataset(task).parts.train[:80]
        self.texts = [row.input for row in self.rows]
        self.encodings: list[Encoding] = self.preprocessor.encode(self.texts)
        self.truth = TARGET.truth(self.rows)
        network = Network(TextEncoder.load(card), labels=3, frozen=0.75, seed=0)
        with torch.no_grad():
            network.head.weight.mul_(100)
            tensors = self.preprocessor.collate(self.encodings)
            pooled = network(*(torch.from_numpy(values) for values in tensors.values())).pooled
            network.head.bias.copy_(-network.head.weight @ pooled.mean(dim=0))  # so that no label always wins
        self.model = Exported(network, Probabilities(1.5), principal_components(pooled.numpy(), 8))
        write_onnx(self.model, folder / FP32)
        self.scorer = Scorer(folder / FP32, self.preprocessor)

    def batches(self) -> list[dict[str, np.ndarray]]:
        return [self.preprocessor.collate(self.encodings[:16])]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Bench:
    from tests.training.conftest import examples, write_task

    folder = tmp_path_factory.mktemp("export")
    return Bench(Task.load(write_task(folder, backbone, examples(150))), folder)


def test_the_graph_answers_as_pytorch_does(bench: Bench) -> None:
    parity = check_parity(bench.model, bench.scorer, bench.preprocessor, bench.encodings, 1e-3, TARGET)
    assert parity.rows == 80
    assert parity.largest_difference < 1e-5
    assert parity.largest_feature_difference < 1e-4
    assert parity.same_label == 1.0


def test_the_graph_says_what_it_takes_and_gives(bench: Bench) -> None:
    graph = onnx.load(bench.folder / FP32).graph
    shapes = {
        one.name: (one.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim])
        for one in (*graph.input, *graph.output)
    }
    integers, reals = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    assert shapes == {
        "input_ids": (integers, ["batch", "tokens"]),
        "attention_mask": (integers, ["batch", "tokens"]),
        "probabilities": (reals, ["batch", 3]),
        "features": (reals, ["batch", 8]),
    }


def test_the_network_goes_on_with_its_own_attention(bench: Bench) -> None:
    encoder = bench.model.network.encoder
    assert isinstance(encoder, TextEncoder)
    assert encoder.model.config._attn_implementation == ATTENTION


def test_a_graph_that_answers_differently_is_refused(bench: Bench, tmp_path: Path) -> None:
    model = onnx.load(bench.folder / FP32)
    head = next(one for one in model.graph.initializer if one.name.endswith("head.weight"))
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head) * np.float32(1.1), head.name))
    onnx.save(model, tmp_path / FP32)
    wrong = Scorer(tmp_path / FP32, bench.preprocessor)
    with pytest.raises(VersionRefused, match="does not answer as PyTorch does: answers differ by up to"):
        check_parity(bench.model, wrong, bench.preprocessor, bench.encodings, 1e-3, TARGET)


def test_a_graph_whose_features_are_others_is_refused(bench: Bench) -> None:
    other = Exported(bench.model.network, Probabilities(1.5), (bench.model.components, bench.model.offset + 0.02))
    with pytest.raises(VersionRefused, match=r"features differ by up to 0.02 on 80 rows, 0.01 is allowed"):
        check_parity(other, bench.scorer, bench.preprocessor, bench.encodings, 1e-3, TARGET)


def test_a_graph_that_answers_nan_is_refused(bench: Bench) -> None:
    broken = Exported(bench.model.network, Probabilities(float("nan")), (bench.model.components, bench.model.offset))
    with pytest.raises(VersionRefused):
        check_parity(broken, bench.scorer, bench.preprocessor, bench.encodings[:4], 1e-3, TARGET)


def test_int8_answers_do_not_depend_on_their_neighbours(bench: Bench, tmp_path: Path) -> None:
    replaced = quantize(bench.folder / FP32, tmp_path / "int8.onnx", bench.batches())
    assert replaced == 4 * 6 + 1  # query, key, value, output and two of the feed-forward in each layer; the words
    small = Scorer(tmp_path / "int8.onnx", bench.preprocessor)
    found = artifacts.Measurement.of(tmp_path / "int8.onnx", bench.preprocessor, bench.encodings)
    assert np.abs(found.alone - found.mixed).max() < 1e-5
    difference = np.abs(small.score(bench.encodings).answers - bench.scorer.score(bench.encodings).answers)
    assert 0 < difference.max() < 0.2


def test_no_two_8_bit_products_overflow_on_any_processor(bench: Bench, tmp_path: Path) -> None:
    quantize(bench.folder / FP32, tmp_path / "int8.onnx", bench.batches())
    graph = onnx.load(tmp_path / "int8.onnx").graph
    products = {node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
    columns = {one.name: numpy_helper.to_array(one).astype(int) for one in graph.initializer if one.name in products}
    assert len(columns) == len(products) > 0
    for column in columns.values():
        together = np.abs(column[0::2]) + np.abs(column[1::2])
        assert 120 < together.max() <= 128  # 255 x 128 fits into 16 bits with a sign


def test_dynamic_int8_is_caught_by_its_neighbours(bench: Bench, tmp_path: Path) -> None:
    quantize_dynamic(bench.folder / FP32, tmp_path / "dynamic.onnx", weight_type=QuantType.QInt8)
    reference = artifacts.Measurement.of(bench.folder / FP32, bench.preprocessor, bench.encodings)
    plain = reference.artifact(bench.truth, reference, TARGET)
    measured = artifacts.Measurement.of(tmp_path / "dynamic.onnx", bench.preprocessor, bench.encodings)
    dynamic = measured.artifact(bench.truth, reference, TARGET)
    assert plain.measured["neighbour_difference"] < 1e-5
    assert any("answers depend on the batch" in reason for reason in artifacts.objections(dynamic, Export(), TARGET))


def artifact(lost: float, per_second: float, difference: float = 0.0, changed: int = 0) -> Artifact:
    measured = {
        "lost": lost,
        "batched_per_second": per_second,
        "neighbour_difference": difference,
        "neighbour_labels_changed": changed,
    }
    return Artifact(file="x", kept=False, reason="", measured=measured)


@pytest.mark.parametrize(
    ("small", "reason"),
    [
        (artifact(0.004, 200.0), None),
        (artifact(0.006, 200.0), "loses 0.0060 of accuracy, 0.005 is allowed"),
        (artifact(float("nan"), 200.0), "loses nan of accuracy, 0.005 is allowed"),
        (artifact(0.0, 200.0, 0.002), "answers depend on the batch: by up to 0.002, 0 answers change"),
        (artifact(0.0, 200.0, 0.0001, 1), "answers depend on the batch: by up to 0.0001, 1 answers change"),
        (artifact(0.0, 200.0, float("nan")), "answers depend on the batch: by up to nan, 0 answers change"),
    ],
)
def test_a_smaller_artifact_has_to_earn_its_place(small: Artifact, reason: str | None) -> None:
    assert artifacts.objections(small, Export(), TARGET) == ([reason] if reason else [])


def answered(*likely: tuple[int, float]) -> NDArray[np.float32]:
    """Of two labels, one likely so much."""
    return np.array([[p, 1 - p] if label == 0 else [1 - p, p] for label, p in likely], np.float32)


def test_what_is_lost_of_accuracy_is_what_the_reference_expects_beyond_chance_at_least() -> None:
    target = target_for(Labels(("a", "b")))
    rows, right = 400, np.zeros(400, np.int64)
    plain = answered(*[(0, 0.52)] * 20, *[(0, 0.95)] * (rows - 20))
    ties = answered(*[(1, 0.51)] * 3, *[(0, 0.51)] * 17, *[(0, 0.95)] * (rows - 20))
    assert target.lost(right, ties, plain) == pytest.approx(3 * 0.04 / rows, rel=1e-3)  # three wrong, by chance
    many = answered(*[(1, 0.51)] * 20, *[(0, 0.95)] * (rows - 20))
    assert target.lost(right, many, plain) == pytest.approx((20 - 1.96 * 20**0.5) / rows)  # twenty are not
    sure = answered(*[(0, 0.52)] * 20, *[(1, 0.9)] * 4, *[(0, 0.95)] * (rows - 24))
    assert target.lost(1 - right, sure, plain) == pytest.approx(4 * 0.9 / rows)  # though it was right each time


def test_int8_has_to_be_faster() -> None:
    assert artifacts.slowness(artifact(0.0, 99.0), artifact(0.0, 100.0)) == ["is not faster"]
    assert artifacts.slowness(artifact(0.0, 101.0), artifact(0.0, 100.0)) == []


def test_fp16_stays_near_enough_to_be_recognised_on_a_gpu() -> None:
    half = artifact(0.0, 1.0).model_copy(update={"largest_difference": 0.006, "tolerance": 0.01})
    assert artifacts.strangeness(half) == ["is 0.006 away from float32, 0.005 is allowed"]
    assert artifacts.strangeness(half.model_copy(update={"largest_difference": float("nan")}))
    assert artifacts.strangeness(half.model_copy(update={"largest_difference": 0.001})) == []


def test_fp16_takes_and_gives_what_float32_does_in_half_the_bytes(bench: Bench, tmp_path: Path) -> None:
    halve(bench.folder / FP32, tmp_path / "half.onnx")
    plain, half = onnx.load(bench.folder / FP32).graph, onnx.load(tmp_path / "half.onnx").graph
    assert (list(half.input), list(half.output)) == (list(plain.input), list(plain.output))
    assert onnx.TensorProto.FLOAT not in {one.data_type for one in half.initializer}
    found = artifacts.Measurement.of(tmp_path / "half.onnx", bench.preprocessor, bench.encodings)
    assert found.file.stat().st_size < 0.7 * (bench.folder / FP32).stat().st_size
    difference = np.abs(found.answers - bench.scorer.score(bench.encodings).answers)
    assert 0 < difference.max() < 5e-3
    assert np.abs(found.alone - found.mixed).max() < 1e-3


NUMBERS = NumberTarget(Numbers(), center=-4190.0, unit=1.0, level=0.9)  # as far out as the data may be


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory, bench: Bench) -> Path:
    """The same network, which says numbers in intervals that follow the input."""
    network = Network(bench.model.network.encoder, labels=1, frozen=0.75, seed=0)
    with torch.no_grad():
        tensors = bench.preprocessor.collate(bench.encodings)
        pooled = network(*(torch.from_numpy(values) for values in tensors.values())).pooled
        direction = torch.linalg.svd(pooled - pooled.mean(dim=0)).Vh[:1]
        network.head.weight.copy_(direction / (pooled @ direction.T).std())
        network.head.bias.copy_(-network.head.weight @ pooled.mean(dim=0))
    intervals = Intervals(
        level=0.9, center=NUMBERS.center, unit=NUMBERS.unit, allowed=NUMBERS.answers, quantile=1.0, alone=4.0,
        weights=network.head.weight[0].double().detach().numpy() / 4, bias=-0.5, bounds=(-2.0, 1.0),
        mean_half=1.0, constant_half=1.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("numbers")
    model = Exported(network, intervals.module(), (bench.model.components, bench.model.offset))
    write_onnx(model, folder / FP32, NUMBERS.answers.output)
    scorer = Scorer(folder / FP32, bench.preprocessor)
    check_parity(model, scorer, bench.preprocessor, bench.encodings, Export().tolerance, NUMBERS)
    return folder


def test_numbers_far_from_nought_are_as_good_in_fp16(bench: Bench, numbers: Path, tmp_path: Path) -> None:
    halve(numbers / FP32, tmp_path / "half.onnx")
    plain, half = onnx.load(numbers / FP32).graph, onnx.load(tmp_path / "half.onnx").graph
    assert (list(half.input), list(half.output)) == (list(plain.input), list(plain.output))
    truth = bench.scorer.score(bench.encodings).answers[:, 0].astype(np.float64)
    reference = artifacts.Measurement.of(numbers / FP32, bench.preprocessor, bench.encodings)
    found = artifacts.Measurement.of(tmp_path / "half.onnx", bench.preprocessor, bench.encodings)
    assert np.ptp(reference.answers[:, 0]) > 2
    assert found.file.stat().st_size < 0.7 * reference.file.stat().st_size
    artifact = found.artifact(truth, reference, NUMBERS).model_copy(update={"tolerance": 1e-2})
    assert artifacts.strangeness(artifact) == []
    assert artifact.measured["neighbour_difference"] < 1e-3


def test_int8_leaves_what_makes_an_interval_as_it_is(bench: Bench, numbers: Path, tmp_path: Path) -> None:
    assert quantize(numbers / FP32, tmp_path / "int8.onnx", bench.batches()) == 4 * 6 + 1  # as of labels
    graphs = onnx.load(numbers / FP32).graph, onnx.load(tmp_path / "int8.onnx").graph
    plain, small = ([node for node in graph.node if node.name.startswith(ANSWERING)] for graph in graphs)
    assert "Gemm" in {node.op_type for node in plain}
    assert plain == small


PARITY = Parity(rows=80, largest_difference=0.0, largest_feature_difference=0.0, same_label=1.0)


@pytest.mark.parametrize(("found", "serves"), [([], ("int8", "fp16")), (["is no good"], ("fp32", "fp32"))])
def test_what_is_kept_serves_and_what_is_dropped_leaves_no_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[str], serves: tuple[str, str]
) -> None:
    (tmp_path / FP32).write_bytes((bench.folder / FP32).read_bytes())
    for judge in ("objections", "slowness", "strangeness"):
        monkeypatch.setattr(artifacts, judge, lambda *_: found)
    chosen = artifacts.choose(
        tmp_path, bench.preprocessor, bench.encodings, bench.truth, Export(fp16=True), PARITY, bench.encodings, TARGET
    )
    assert (chosen.cpu, chosen.gpu) == serves
    for name in ("int8", "fp16"):
        small = chosen.artifacts[name]
        assert small.kept == (tmp_path / small.file).exists() == (not found)
        assert small.reason
        assert small.measured["single_per_second"] > 0
    assert chosen.artifacts["fp16"].tolerance == pytest.approx(0.01)


def test_what_is_not_wanted_is_not_tried(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / FP32).write_bytes((bench.folder / FP32).read_bytes())
    off = Export(int8=False)
    chosen = artifacts.choose(tmp_path, bench.preprocessor, bench.encodings, bench.truth, off, PARITY, [], TARGET)
    assert (list(chosen.artifacts), chosen.cpu, chosen.gpu) == (["fp32"], "fp32", "fp32")


def test_golden_examples_hold_the_answers_of_what_serves(bench: Bench, tmp_path: Path) -> None:
    texts = spread_by_length(bench.texts, 5)
    assert [len(text) for text in texts] == sorted(len(text) for text in texts)
    scorers = {"fp32": bench.scorer}
    write_golden(tmp_path / "golden.json", texts, bench.preprocessor, scorers)
    golden = json.loads((tmp_path / "golden.json").read_text())
    for text, example in zip(texts, golden["examples"], strict=True):
        assert example["input"] == text
        tensors = bench.preprocessor.collate(bench.preprocessor.encode([text]))
        assert example["tensors"]["input_ids"] == tensors["input_ids"][0].tolist()
        assert sum(example["by_precision"]["fp32"]) == pytest.approx(1, abs=1e-5)


def test_features_are_uncorrelated_with_variance_one_where_they_were_fitted() -> None:
    pooled = np.random.default_rng(0).normal(size=(200, 5)) @ np.random.default_rng(1).normal(size=(5, 12))
    components, offset = principal_components(pooled.astype(np.float32), 8)
    features = pooled @ components.numpy().T + offset.numpy()
    covariance = np.cov(features.T)
    np.testing.assert_allclose(covariance[:5, :5], np.eye(5), atol=1e-3)
    np.testing.assert_allclose(features[:, 5:], 0, atol=1e-3)  # five directions are all there are
