"""Image networks: taken apart as they came, trained from files, and served by what serves texts."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from PIL import Image

from regraft import releases
from regraft.errors import ConfigError
from regraft.inputs import InputStore, reference_of
from regraft.preprocessing import ImagePreprocessor, ImageSpec
from regraft.preprocessing.image import FACTS
from regraft.sections import Backbone
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import Manifest, VersionStore, read_golden
from tests.images import file_of, picture, pixels, png
from tests.training.pictures import COLOURS, save_image_backbone, save_pictures
from training.backbone import open_backbone
from training.data import Row, file_hash, read
from training.dataset import examine, read_dataset, split_again
from training.export import FP32, Exported, principal_components, write_onnx
from training.images import ImageEncoder
from training.kinds import encoder_of, preprocessor_of
from training.network import Network
from training.patches import PatchEncoder
from training.pictures import ImageFiles, open_image_files
from training.proof import KINDS, Proof
from training.targets.labels import Probabilities
from training.train import fine_tune, version_folder

REAL = Path(__file__).parents[2] / "examples" / "fashion" / "data"
SPEC = ImageSpec(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3, max_pixels=1_000_000)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_image_backbone(tmp_path_factory.mktemp("backbone"))


def write_task(folder: Path, backbone: Path, /, **sections: Any) -> Task:
    task = {
        "name": "colours",
        "input": "image",
        "labels": list(COLOURS),
        "backbone": {"source": str(backbone)},
        "data": {"files": ["pictures"]},
        "training": {"epochs": 8, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "bootstrap": 100},
        "export": {"features": 4, "golden": 3},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task | sections))
    return Task.load(folder / "task.yaml")


def probe(spec: ImageSpec = SPEC, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, spec.height, spec.width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext", "test_mambaout"])
def test_a_row_of_blocks_can_be_cut_anywhere_and_answers_as_it_did(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=0).eval()
    with torch.inference_mode():
        maps = model.forward_features(probe())
        whole = maps.mean(dim=(1, 2) if name == "test_mambaout" else (2, 3))  # which has its channels last, as Swin has
        encoder = ImageEncoder(model, SPEC).eval()
        assert len(encoder.layers) > 3
        for boundary in range(len(encoder.layers) + 1):
            below = encoder.run(encoder.embed(probe()), range(boundary))
            assert below.states.shape[1] == encoder.positions([1], boundary)[0]
            above = encoder.pool(encoder.run(below, range(boundary, len(encoder.layers))))
            torch.testing.assert_close(above, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "mixer_s32_224"])
def test_layers_of_patches_can_be_cut_anywhere_and_answer_as_they_did(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=0, img_size=32).eval()
    with torch.inference_mode():
        whole = model(probe())
        encoder = PatchEncoder.of(model, SPEC)
        assert encoder is not None
        assert len(encoder.layers) > 3
        torch.testing.assert_close(encoder.pool(encoder.whole(probe())), whole)
        for boundary in range(len(encoder.layers) + 1):
            below = encoder.run(encoder.embed(probe()), range(boundary))
            assert below.states.shape[1] == encoder.positions([1], boundary)[0]
            above = encoder.pool(encoder.run(below, range(boundary, len(encoder.layers))))
            torch.testing.assert_close(above, whole, atol=1e-4, rtol=1e-4)


def test_a_vision_transformer_of_timm_learns_in_its_last_layers_and_is_exported(tmp_path: Path) -> None:
    save_image_backbone(tmp_path, "test_vit", img_size=32)
    encoder = encoder_of(open_backbone(Backbone(source=str(tmp_path))), open_image_files(tmp_path, 1_000_000))
    network = Network(encoder, labels=3, frozen=0.75, seed=0)
    learning = {name for name, one in network.named_parameters() if one.requires_grad}
    assert {name.split(".")[3] for name in learning if not name.startswith("head")} == {"4", "5"}
    network.learning_mode(on=False)
    write_onnx(
        Exported(network, Probabilities(1.0), principal_components(np.eye(64, dtype=np.float32), 2)), tmp_path / FP32
    )
    (answered,) = onnxruntime.InferenceSession(tmp_path / FP32).run(["probabilities"], {"pixels": probe().numpy()})
    with torch.no_grad():
        expected = network(probe()).logits.softmax(dim=1).numpy()
    assert np.abs(answered - expected).max() < 1e-5


def test_what_stands_in_no_row_learns_only_above_its_pooled_vector() -> None:
    torch.manual_seed(0)
    model = timm.create_model("pit_ti_224", num_classes=0).eval()
    spec = ImageSpec(height=224, width=224, mean=(0.5,) * 3, std=(0.5,) * 3, max_pixels=1_000_000)
    with torch.inference_mode():
        whole = model(probe(spec))
        assert PatchEncoder.of(model, spec) is None
        network = Network(ImageEncoder(model, spec), labels=3, frozen=0.5, seed=0)
        torch.testing.assert_close(network.encoder.pool(network.prefix(probe(spec))), whole)
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {"head.weight", "head.bias"}


def test_batch_statistics_move_above_the_boundary_and_stay_to_the_byte_below() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=0)
    network = Network(ImageEncoder(model, SPEC), labels=3, frozen=0.5, seed=0)

    def statistics() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in network.state_dict().items() if "running" in name}

    before = statistics()
    network.learning_mode(on=True)
    network(probe(count=4)).logits.sum().backward()
    above = tuple(f"encoder.blocks.{index}." for index in range(network.boundary, len(network.encoder.layers)))
    moved = {name for name, value in statistics().items() if not value.equal(before[name])}
    assert moved == {name for name in before if name.startswith(above)} != set()


@pytest.mark.parametrize("config", ["{}", "no json", '{"architecture": "test_resnet"}', '{"model_type": "bert"}'])
def test_a_folder_that_does_not_say_what_its_images_are_like_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="does not say how timm or transformers prepares"):
        open_image_files(tmp_path, 1_000)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = save_image_backbone(tmp_path / "one")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "test_resnet"}))
    task = write_task(tmp_path, folder)
    card = open_backbone(task.backbone)
    with pytest.raises(ConfigError, match=r"cannot be loaded|lacks weights"):
        encoder_of(card, preprocessor_of(task, card))


def test_a_network_of_grey_pictures_goes_from_training_to_answers(tmp_path: Path) -> None:
    backbone = save_image_backbone(tmp_path / "grey", channels=1)
    for label, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(20):
            grey = Image.fromarray(pixels(number, height=40, width=40)).convert("L")
            blended = Image.blend(grey, Image.new("L", grey.size, shade), 0.7)
            blended.save(tmp_path / "pictures" / label / f"{number}.png")
    training = {"epochs": 6, "stages": 1, "few_shot": "off", "learning_rate": 1e-2, "precision": "fp32"}
    task = write_task(tmp_path, backbone, labels=["dark", "light"], training=training, report={"robustness_rows": 4})
    manifest = fine_tune(task, read_dataset(task), tmp_path / "run", version="v1")
    assert manifest.test["accuracy"].value > 0.8
    version = version_folder(tmp_path / "run")
    preprocessor = ImagePreprocessor.load(version)
    assert (preprocessor.spec.channels, preprocessor.spec.mean) == (1, (0.5,))
    session = onnxruntime.InferenceSession(str(version / "model.onnx"), providers=["CPUExecutionProvider"])
    light = file_of(Image.new("RGB", (50, 30), (210, 200, 190)))
    (answer,) = session.run(["probabilities"], preprocessor.collate(preprocessor.encode([light])))
    assert answer.argmax() == 1


def test_a_network_of_coloured_pictures_is_fitted_to_grey_ones(tmp_path: Path, backbone: Path) -> None:
    source = {"source": str(backbone)}
    coloured = write_task(tmp_path, backbone)
    grey = write_task(tmp_path, backbone, backbone=source | {"channels": 1, "mean": [0.5], "std": [0.5]})
    vectors = []
    for task in (coloured, grey):
        card = open_backbone(task.backbone)
        preprocessor = preprocessor_of(task, card)
        file = tmp_path / "grey.png"
        Image.fromarray(pixels(3)).convert("L").save(file)
        tensors = preprocessor.collate(preprocessor.encode([str(file)]))
        assert tensors["pixels"].shape[1] == (task.backbone.channels or 3)
        network = Network(encoder_of(card, preprocessor), labels=3, frozen=0.5, seed=0)
        network.learning_mode(on=False)
        vectors.append(network(torch.from_numpy(tensors["pixels"])).pooled)
    torch.testing.assert_close(vectors[0], vectors[1], atol=1e-4, rtol=1e-4)
    assert open_backbone(grey.backbone).input_format == "images of 32 pixels in 3 channels, fitted to 1"


def test_channels_that_no_file_holds_and_means_that_do_not_fit_are_refused(tmp_path: Path, backbone: Path) -> None:
    six = save_image_backbone(tmp_path / "six", channels=6)
    with pytest.raises(ConfigError, match="takes images of 6 channels, image files have 1, 3 or 4"):
        preprocessor_of(write_task(tmp_path, six), open_backbone(Backbone(source=str(six))))
    fitted = write_task(tmp_path, six, backbone={"source": str(six), "channels": 3})
    assert preprocessor_of(fitted, open_backbone(fitted.backbone)).spec.channels == 3  # type: ignore[attr-defined]
    wrong = write_task(tmp_path, backbone, backbone={"source": str(backbone), "mean": [0.5, 0.5]})
    with pytest.raises(ConfigError, match=r"backbone\.mean has 2 numbers for 3 channels"):
        preprocessor_of(wrong, open_backbone(wrong.backbone))
    with pytest.raises(ConfigError, match=r"backbone\.channels, mean and std are for pictures"):
        write_task(tmp_path, backbone, input="text", backbone={"source": "x", "channels": 1})


def test_a_network_of_the_hub_is_one_like_any_other(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "0123abc"
    shutil.copytree(backbone, snapshot)
    monkeypatch.setattr("training.backbone.snapshot_download", lambda *_, **__: str(snapshot))
    task = write_task(tmp_path, backbone, backbone={"source": "timm/test_efficientnet.r160_in1k"})
    card = open_backbone(task.backbone)
    assert (card.revision, card.licence, card.model_type) == ("0123abc", "apache-2.0", "test_efficientnet")
    assert len(encoder_of(card, preprocessor_of(task, card)).layers) > 3


def test_folders_are_labels_and_what_is_no_image_is_a_bad_row(tmp_path: Path, backbone: Path) -> None:
    pictures = save_pictures(tmp_path / "pictures", 2)
    (pictures / "red" / "notes.txt").write_text("words")
    (pictures / "red" / "half.png").write_bytes(png()[:900])
    (pictures / "stray.png").write_bytes(png())
    (pictures / ".DS_Store").write_bytes(b"from a desktop")
    (pictures / "mauve").mkdir()
    (pictures / "mauve" / "1.png").write_bytes(png())
    task = write_task(tmp_path, backbone)
    table = read(task)
    assert [(row.label, row.id) for row in table.rows] == [
        (label, f"pictures/{label}/{number}.png") for label in sorted(COLOURS) for number in range(2)
    ]
    assert table.rows[0].content == reference_of(Path(table.rows[0].input).read_bytes())
    assert [bad.place for bad in table.bad] == [
        "pictures/mauve/1.png", "pictures/red/half.png", "pictures/red/notes.txt", "pictures/stray.png"
    ]  # fmt: skip
    assert table.bad[3].reason == "lies in no labelled folder"
    assert "the image is damaged" in table.bad[1].reason
    hashed = file_hash(pictures)
    (pictures / "red" / ".DS_Store").write_bytes(b"from a desktop")
    assert file_hash(pictures) == hashed
    (pictures / "red" / "0.png").write_bytes(png(77))
    assert file_hash(pictures) != hashed


def test_a_linked_folder_is_a_label_and_part_of_the_hash(tmp_path: Path, backbone: Path) -> None:
    pictures = save_pictures(tmp_path / "pictures", 1)
    (pictures / "red").rename(tmp_path / "elsewhere")
    (pictures / "red").symlink_to(tmp_path / "elsewhere")
    assert sorted(row.label for row in read(write_task(tmp_path, backbone)).rows) == sorted(COLOURS)
    hashed = file_hash(pictures)
    (tmp_path / "elsewhere" / "0.png").write_bytes(png(77))
    assert file_hash(pictures) != hashed


def test_a_table_names_images_beside_it(tmp_path: Path, backbone: Path) -> None:
    save_pictures(tmp_path / "pictures", 1)
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("file", "label"), ("pictures/red/0.png", "red"), ("none.png", "red"), ("pictures", "red")])
    task = write_task(tmp_path, backbone, data={"files": ["rows.csv"], "columns": {"input": "file"}})
    table = read(task)
    assert [(row.id, row.label) for row in table.rows] == [("rows.csv:2", "red")]
    assert [bad.place for bad in table.bad] == ["rows.csv:3", "rows.csv:4"]
    assert "none.png cannot be read: No such file" in table.bad[0].reason


def test_a_card_knows_how_large_pictures_could_be(tmp_path: Path, backbone: Path) -> None:
    save_pictures(tmp_path / "pictures", 6)
    examined = examine(write_task(tmp_path, backbone))
    assert split_again(examined.card, write_task(tmp_path, backbone, serving={"max_pixels": 100})) == examined.parts


def test_contents_of_files_are_read_when_they_are_looked_at(tmp_path: Path) -> None:
    rows = [Row(str(number), str(tmp_path / f"{number}.png"), "red", "") for number in range(3)]
    inputs = KINDS["image"].inputs(rows)
    assert len(inputs) == 3
    contents = [png(number) for number in range(3)]
    for row, content in zip(rows, contents, strict=True):
        Path(row.input).write_bytes(content)
    assert list(inputs) == contents


def test_equal_pictures_never_stand_in_two_parts(tmp_path: Path, backbone: Path) -> None:
    pictures = save_pictures(tmp_path / "pictures", 6)
    for number in range(6, 12):
        (pictures / "red" / f"{number}.png").write_bytes((pictures / "red" / "0.png").read_bytes())
    parts = read_dataset(write_task(tmp_path, backbone)).parts
    twins = [{row.content for row in part} for part in parts]
    assert sum(map(len, twins)) == len(set.union(*twins))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> tuple[Path, Task, Manifest]:
    folder = tmp_path_factory.mktemp("trained")
    save_pictures(folder / "pictures", 24)
    task = write_task(folder, backbone)
    manifest = fine_tune(task, read_dataset(task), folder / "run", version="v1")
    VersionStore(str(folder / "home" / "versions")).publish(version_folder(folder / "run"), manifest)
    return folder, task, manifest


def test_a_version_for_images_holds_all_that_one_for_texts_does(trained: tuple[Path, Task, Manifest]) -> None:
    folder, _, manifest = trained
    version = folder / "home" / "versions" / "v1"
    assert (manifest.input, set(manifest.artifacts)) == ("image", {"fp32", "int8"})
    assert manifest.test["accuracy"].value > 0.8
    assert set(manifest.baselines) >= {"majority label", "colour histogram, linear", "frozen backbone, linear"}
    proof = Proof.load(version)
    assert {one.change for one in proof.robustness} == {"blur", "noise", "darkness", "glare", "JPEG compression"}
    assert all(one.picture and one.picture.startswith("data:image/jpeg;base64,") for one in proof.mistakes)
    assert "sorts images into" in (version / "report.html").read_text()
    reference = pq.read_table(version / "reference.parquet").to_pylist()
    assert tuple(dict(reference[0]["facts"])) == FACTS
    preprocessor = ImagePreprocessor.load(version)
    assert preprocessor.spec.crop == 0.9
    serves = str(version / manifest.artifacts[manifest.serve_cpu].file)
    session = onnxruntime.InferenceSession(serves, providers=["CPUExecutionProvider"])
    for example in read_golden(version):
        (probabilities,) = session.run(["probabilities"], preprocessor.collate(preprocessor.encode([example["input"]])))
        np.testing.assert_allclose(probabilities[0], example["by_precision"]["fp32"], atol=1e-5)


async def test_what_was_trained_is_served(trained: tuple[Path, Task, Manifest]) -> None:
    from service import routes
    from service.parts import Parts

    folder, _, _ = trained
    parts = Parts.assemble(Settings(task=folder / "task.yaml", home=folder / "home"))
    releases.change(parts.log, releases.Release(), releases.Release(production="v1"), who="test", why="test")
    await parts.start()
    app = routes.build()
    app.state.parts = parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for label, tint in COLOURS.items():
            content = file_of(Image.blend(picture(9), Image.new("RGB", (64, 48), tint), 0.5))
            answer = (await client.post("/predict", content=content, headers={"Content-Type": "image/png"})).json()
            assert (answer["label"], answer["logged"]) == (label, True)
            assert InputStore(str(folder / "home" / "inputs")).has(reference_of(content))
    await parts.close()


def test_numbers_are_learned_of_pictures_as_labels_are(tmp_path: Path, backbone: Path) -> None:
    """How bright a picture is: from a table that names files to a version with its report."""
    rows = [("file", "shade")]
    for number in range(120):
        shade = (number * 37 % 120) / 120
        noise = Image.fromarray(pixels(number, height=40, width=40))
        tint = Image.new("RGB", noise.size, (int(255 * shade),) * 3)
        Image.blend(noise, tint, 0.7).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", f"{shade:.3f}"))
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    columns = {"input": "file", "label": "shade"}
    sections = {"kind": "regression", "labels": [], "export": {"interval": 0.8}}
    task = write_task(tmp_path, backbone, data={"files": ["rows.csv"], "columns": columns}, **sections)
    manifest = fine_tune(task, read_dataset(task), tmp_path / "run", version="v1")
    assert manifest.baselines["the mean"]["gain/mae"].low > 0
    assert {"colour histogram, linear", "frozen backbone, linear"} <= manifest.baselines.keys()
    folder = version_folder(tmp_path / "run")
    proof = Proof.load(folder)
    assert all(one.picture and one.picture.startswith("data:image/jpeg;base64,") for one in proof.mistakes)
    assert "says a number of each image" in (folder / "report.html").read_text()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    preprocessor = ImagePreprocessor.load(folder)
    for example in read_golden(folder):
        (answers,) = session.run(["value"], preprocessor.collate(preprocessor.encode([example["input"]])))
        np.testing.assert_allclose(answers[0], example["by_precision"]["fp32"], atol=1e-4)


def test_reviewed_pictures_are_found_where_they_are_kept(tmp_path: Path) -> None:
    for url in (str(tmp_path), f"memory://{tmp_path}"):
        store = InputStore(url)
        reference = store.keep(png())
        (encoding,) = ImageFiles(SPEC).encode([store.address(reference)])
        assert encoding.pixels.shape == (32, 32, 3)
        assert Row("1", store.address(reference), "red", "review 1", content=reference).key == reference


@pytest.mark.skipif(not (REAL / "complete").is_file(), reason="examples/fashion/fetch.py has not been run")
def test_real_weights_know_pictures_apart_without_learning() -> None:
    task = Task.load(REAL.parent / "task.yaml")
    card = open_backbone(task.backbone)
    preprocessor = preprocessor_of(task, card)
    network = Network(encoder_of(card, preprocessor), labels=len(task.labels), frozen=0.75, seed=0)
    assert (len(network.encoder.layers), network.boundary, network.width) == (17, 12, 1280)
    places = [str(place) for name in ("bag", "trouser") for place in sorted((REAL / "live" / name).iterdir())[:8]]
    network.learning_mode(on=False)
    with torch.inference_mode():
        pixels = torch.from_numpy(preprocessor.collate(preprocessor.encode(places))["pixels"])
        vectors = torch.nn.functional.normalize(network(pixels).pooled)
    alike = vectors @ vectors.T
    alike.fill_diagonal_(-1)
    nearest = alike.argmax(dim=1)
    assert sum(int(index) // 8 == place // 8 for place, index in enumerate(nearest)) >= 15
