import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

from regraft.errors import ConfigError
from regraft.sections import Backbone
from regraft.task import Task
from tests.training.conftest import CARD, save_backbone
from tests.training.convolutions import Convolutions
from training import backbone as backbone_module
from training import precision
from training.backbone import open_backbone, open_preprocessor
from training.cache import hidden_states
from training.clock import Clock
from training.dataset import read_dataset
from training.export import FP32, Exported, principal_components, write_onnx
from training.learning import Reader, Source
from training.network import Network
from training.targets.labels import Probabilities
from training.text import SHORT, TextEncoder, attend

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 4, "pad_token_id": 0} | dict.fromkeys(
    ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1
)
DISTIL = DistilBertConfig(vocab_size=60, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=40)


def load(folder: Path, **options: float) -> Network:
    card = open_backbone(Backbone(source=str(folder)))
    frozen, seed = options.get("frozen", 0.5), int(options.get("seed", 0))
    return Network(TextEncoder.load(card), labels=3, frozen=frozen, seed=seed)


@pytest.mark.parametrize(
    "encoder",
    [
        BertModel(BertConfig(**SMALL)),
        RobertaModel(RobertaConfig(**SMALL, pad_token_id=1)),
        ElectraModel(ElectraConfig(**SMALL, embedding_size=16)),
        DistilBertModel(DISTIL),
    ],
    ids=lambda encoder: encoder.config.model_type,
)
def test_cut_in_two_the_network_answers_as_the_whole(encoder: Any, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    network = load(tmp_path, frozen=0.67)
    assert (network.boundary, len(network.encoder.layers), network.width) == (2, 3, 16)
    ids, mask = torch.randint(5, 60, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    with torch.inference_mode():
        hidden = encoder.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = torch.stack([hidden[0].mean(dim=0), hidden[1, :4].mean(dim=0)])
        torch.testing.assert_close(network(ids, mask).pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 7, SHORT, SHORT + 1])
def test_attention_in_bfloat16_is_what_the_fused_one_gives_in_float32_but_for_rounding(tokens: int) -> None:
    chance = torch.Generator().manual_seed(0)
    exact = [torch.randn(3, 4, tokens, 8, generator=chance).requires_grad_() for _ in range(3)]
    rounded = [one.detach().bfloat16().requires_grad_() for one in exact]
    mask = torch.zeros(3, 1, 1, tokens)
    mask[1, ..., 1:] = torch.finfo(torch.float32).min
    query, key, value = exact
    fused = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.25)
    expected = fused.transpose(1, 2)
    query, key, value = rounded
    found, _ = attend(torch.nn.Identity(), query, key, value, mask.bfloat16(), scaling=0.25)
    assert (found.shape, found.dtype) == ((3, tokens, 4, 8), torch.bfloat16)
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
    weights = torch.randn(expected.shape, generator=chance)
    gradients = torch.autograd.grad((found.float() * weights).sum(), rounded)
    for ours, theirs in zip(gradients, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        torch.testing.assert_close(ours.float(), theirs, atol=0.06, rtol=0.06)


@pytest.mark.parametrize(
    ("encoder", "layers"),
    [
        (MPNetModel(MPNetConfig(**SMALL)), 3),
        (GPT2Model(GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=2)), 3),
        (DebertaV2Model(DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"])), 3),
        (ModernBertModel(ModernBertConfig(**SMALL, **MODERN)), 3),
        (Qwen3Model(Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)), 3),
        (AlbertModel(AlbertConfig(**SMALL, embedding_size=16)), 0),  # the same layer again and again
        (T5EncoderModel(T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2)), 0),
    ],
    ids=lambda value: value.config.model_type if hasattr(value, "config") else str(value),
)
def test_any_network_for_texts_answers_as_it_did_cut_or_whole_in_pytorch_and_exported(
    encoder: Any, layers: int, tmp_path: Path
) -> None:
    encoder.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    network = load(tmp_path, frozen=1.0)
    network.learning_mode(on=False)
    ids, mask = torch.randint(5, 60, (3, 10), generator=torch.Generator().manual_seed(1)), torch.ones(3, 10).long()
    mask[1, 4:] = 0
    with torch.no_grad():
        states = encoder.eval()(input_ids=ids, attention_mask=mask).last_hidden_state * mask[:, :, None]
        expected = network.head(states.sum(dim=1) / mask.sum(dim=1, keepdim=True))
        torch.testing.assert_close(network(ids, mask).logits, expected)
        for boundary in range(layers, -1, -1):
            network.unfreeze(boundary)
            assert [group.name for group in network.groups()][1:] == [
                f"layer {place}" for place in range(layers - 1, boundary - 1, -1)
            ]
            torch.testing.assert_close(network.suffix(network.prefix(ids, mask)).logits, expected)
    write_onnx(
        Exported(network, Probabilities(1.0), principal_components(np.eye(16, dtype=np.float32), 2)), tmp_path / FP32
    )
    session = onnxruntime.InferenceSession(tmp_path / FP32)
    (answered,) = session.run(["probabilities"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert np.abs(answered - expected.softmax(dim=1).numpy()).max() < 1e-5


def test_what_is_run_in_parts_learns_above_the_boundary_alone_in_any_thread(tmp_path: Path) -> None:
    MPNetModel(MPNetConfig(**SMALL)).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    network = load(tmp_path, frozen=0.67)
    assert (network.boundary, len(network.encoder.layers)) == (2, 3)
    network.learning_mode(on=False)
    batches = [torch.full((2, length), length + 5) for length in range(1, 30)]

    def learn(ids: torch.Tensor) -> torch.Tensor:
        logits = network.suffix(network.prefix(ids, torch.ones_like(ids))).logits
        torch.autograd.backward(logits.sum())
        return logits.detach()

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(learn, batches))
    with torch.no_grad():
        for ids, logits in zip(batches, found, strict=True):
            torch.testing.assert_close(logits, network(ids, torch.ones_like(ids)).logits)
    touched = {name for name, one in network.encoder.named_parameters() if one.grad is not None}
    assert touched
    assert all(name.startswith("model.encoder.layer.2.") for name in touched)


def test_an_architecture_that_takes_no_texts_is_named(tmp_path: Path) -> None:
    small = {name: value for name, value in SMALL.items() if "token" not in name and name != "vocab_size"}
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(ConfigError, match="the architecture 'vit' takes no texts alone"):
        load(tmp_path)


def test_what_learns_is_the_head_and_the_layers_above_the_boundary(backbone: Path) -> None:
    network = load(backbone, frozen=0.75)
    learning = {name.rsplit(".", 2)[0] for name in network.trained_state()}
    assert [group.name for group in network.groups()] == ["head", "layer 3"]
    assert all(name.startswith(("head", "encoder.model.encoder.layer.3")) for name in learning)


def test_batch_statistics_move_above_the_boundary_and_stay_to_the_byte_below_it() -> None:
    network = Network(Convolutions(layers=3), labels=2, frozen=0.67, seed=0)
    before, trained = {name: value.clone() for name, value in network.state_dict().items()}, network.trained_state()
    network.learning_mode(on=True)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        network(torch.randn(4, 3, 16, 16)).logits.square().sum().backward()
        optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(trained)
    assert {"encoder.blocks.2.1.running_mean", "encoder.blocks.2.1.num_batches_tracked"} < moved
    network.load_trained_state(trained)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_that_normalises_by_batch_is_known(backbone: Path) -> None:
    assert Network(Convolutions(layers=3), labels=2, frozen=0.5, seed=0).has_batch_norms
    assert not load(backbone).has_batch_norms


def test_layers_that_rest_keep_their_batch_statistics_and_get_no_gradients() -> None:
    network = Network(Convolutions(layers=3), labels=2, frozen=0.34, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.rest(1)
    network.learning_mode(on=True)
    network(torch.randn(4, 3, 16, 16)).logits.square().sum().backward()
    assert [group.name for group in network.moving()] == ["head", "layer 2"]
    pulled = {name for name, one in network.named_parameters() if one.grad is not None}
    assert {name.split(".")[2] for name in pulled if "blocks" in name} == {"2"}
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[2] for name in moved} == {"2"}
    assert any("blocks.1" in name for name in network.trained_state())
    network.unfreeze(1)
    assert [group.name for group in network.moving()] == ["head", "layer 2", "layer 1"]


class Pixels(NamedTuple):
    values: NDArray[np.float32]
    length: int = 256


class Stack:
    def collate(self, encodings: Sequence[Pixels]) -> dict[str, NDArray[np.float32]]:
        return {"pixels": np.stack([encoding.values for encoding in encodings])}


@pytest.mark.parametrize("boundary", [0, 1, 3])
def test_feature_maps_are_cached_like_tokens(tmp_path: Path, boundary: int) -> None:
    network = Network(Convolutions(layers=3), labels=2, frozen=0.5, seed=0)
    network.unfreeze(boundary)
    network.learning_mode(on=False)
    pixels = np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)
    hidden = hidden_states(
        network, Stack(), [*map(Pixels, pixels)], dtype=torch.float32, cache_bytes=0, file=tmp_path / "maps"
    )
    with torch.inference_mode():
        torch.testing.assert_close(
            network.suffix(hidden.batch([3, 1])).logits, network(torch.from_numpy(pixels[[3, 1]])).logits
        )


def test_the_head_depends_on_the_seed_alone(backbone: Path) -> None:
    first, again, other = (load(backbone, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    save_backbone(tmp_path, layers=2)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights, among them encoder.layer.1.output.dense.weight"):
        load(tmp_path)


def card_with(folder: Path, readme: str | None, **backbone: str) -> backbone_module.BackboneCard:
    readme_file = folder / "README.md"
    readme_file.unlink(missing_ok=True)
    if readme is not None:
        readme_file.write_text(readme)
    return open_backbone(Backbone(source=str(folder), **backbone))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("copied"), layers=1)


@pytest.mark.parametrize(
    ("readme", "name"),
    [
        (None, "unknown"),
        ("# no front matter", "unknown"),
        ("---\n: [broken\n---\n", "unknown"),
        ("---\nlanguage: en\n---\n", "unknown"),
        ("---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: our-terms\n---\n", "our-terms"),
    ],
)
def test_a_licence_that_is_not_permissive_has_to_be_accepted_by_name(
    copied: Path, readme: str | None, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"set backbone.accept_licence: {name}"):
        card_with(copied, readme)
    with pytest.raises(ConfigError, match="accept_licence"):
        card_with(copied, readme, accept_licence="another")
    card = card_with(copied, readme, accept_licence=name)
    assert (card.licence, card.licence_accepted_by_name) == (name, True)


def test_the_card_says_where_the_weights_are_from(copied: Path) -> None:
    card = card_with(copied, "---\nlicense: Apache-2.0\ndatasets: [a, b]\n---\n")
    assert (card.licence, card.licence_accepted_by_name, card.training_data) == ("apache-2.0", False, ("a", "b"))
    assert len(card.weights_sha256) == 64
    assert "folder" not in card.as_json()


def test_what_the_network_takes_and_what_it_has_seen_are_said(copied: Path, tmp_path: Path) -> None:
    said = card_with(copied, "---\nlicense: mit\ndatasets: [a, b]\n---\n").lines()
    assert said[0].endswith("bert, licence mit; it takes text in a vocabulary of 1,132 tokens, at most 64")
    assert said[1] == "pre-trained on a, b, as its model card says"
    said = card_with(copied, "---\nlicense: mit\n---\n").lines()
    assert said[1].startswith("its model card names no training data: whether your rows are among it cannot be checked")
    save_backbone(tmp_path, layers=1)
    ViTConfig(image_size=96).save_pretrained(tmp_path)
    assert open_backbone(Backbone(source=str(tmp_path))).input_format == "images of 96 pixels in 3 channels"


def test_a_licence_in_the_configuration_counts_where_there_is_no_card(tmp_path: Path) -> None:
    save_backbone(tmp_path, layers=1)
    (tmp_path / "README.md").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"license": "mit"}))
    assert open_backbone(Backbone(source=str(tmp_path))).licence == "mit"


def test_pickled_weights_are_not_even_looked_at(tmp_path: Path) -> None:
    save_backbone(tmp_path, layers=1)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no safetensors; pickled weights are never loaded"):
        open_backbone(Backbone(source=str(tmp_path)))


def test_a_folder_without_a_configuration_is_no_backbone(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="configuration"):
        open_backbone(Backbone(source=str(tmp_path)))


def test_a_hub_id_is_fetched_at_its_revision_without_pickles(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "0123abc"
    snapshot.symlink_to(copied)
    (copied / "README.md").write_text(CARD)
    asked: dict[str, object] = {}

    def fetch(source: str, **options: object) -> str:
        asked.update(options, source=source)
        return str(snapshot)

    monkeypatch.setattr(backbone_module, "snapshot_download", fetch)
    card = open_backbone(Backbone(source="someone/tiny", revision="main"))
    assert (card.source, card.revision) == ("someone/tiny", "0123abc")
    assert asked["revision"] == "main"
    assert not {"*.bin", "*.py"} & set(asked["allow_patterns"])  # type: ignore[call-overload]
    for name, place in (("resnet50", "timm/resnet50.a1_in1k"), ("test_vit.r160_in1k", "timm/test_vit.r160_in1k")):
        assert open_backbone(Backbone(source=name)).source == name
        assert asked["source"] == place
    open_backbone(Backbone(source="bert-base-uncased"))
    assert asked["source"] == "bert-base-uncased"
    with pytest.raises(ConfigError, match="Invalid pretrained tag"):
        open_backbone(Backbone(source="resnet50.what"))


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise TimeoutError("no route")

    monkeypatch.setattr(backbone_module, "snapshot_download", fail)
    with pytest.raises(ConfigError, match="no local folder and cannot be fetched: no route"):
        open_backbone(Backbone(source="someone/tiny"))


def test_texts_are_cut_where_the_network_has_no_more_positions(task: Task) -> None:
    card = open_backbone(task.backbone)
    long = task.model_copy(update={"serving": task.serving.model_copy(update={"max_tokens": 500})})
    assert open_preprocessor(task, card).spec.max_tokens == 32
    assert open_preprocessor(long, card).spec.max_tokens == 64


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_hidden_states_come_back_padded_as_they_were(task: Task, tmp_path: Path, cache_bytes: int) -> None:
    card = open_backbone(task.backbone)
    preprocessor, network = open_preprocessor(task, card), load(card.folder)
    texts = ["the good box", "a", "it was so very very bad today and the morning"]
    encodings = preprocessor.encode(texts)
    file = tmp_path / "new" / "hidden"
    hidden = hidden_states(network, preprocessor, encodings, dtype=torch.float32, cache_bytes=cache_bytes, file=file)
    assert file.exists() == (cache_bytes == 0)
    assert len(hidden) == 3
    states, mask = hidden.batch([2, 1])
    tensors = preprocessor.collate([encodings[2], encodings[1]])
    assert np.array_equal(mask.numpy(), tensors["attention_mask"])
    with torch.inference_mode():
        expected = network.prefix(torch.from_numpy(tensors["input_ids"]), mask).states * mask[:, :, None]
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, hidden.some([2, 1]).batch([0, 1]), (states, mask)))


def test_the_encoders_dropout_can_be_set_and_the_heads_stays(backbone: Path) -> None:
    network = load(backbone, frozen=0.0)
    hidden = network.prefix(torch.full((4, 6), 7), torch.ones(4, 6, dtype=torch.long))
    network.learning_mode(on=True)
    network.drop_out(0.0)
    assert torch.equal(network.suffix(hidden).pooled, network.suffix(hidden).pooled)
    assert not torch.equal(network.suffix(hidden).logits, network.suffix(hidden).logits)
    network.drop_out(0.3)
    assert not torch.equal(network.suffix(hidden).pooled, network.suffix(hidden).pooled)


def test_bfloat16_halves_the_cache_and_hardly_changes_it(task: Task, tmp_path: Path) -> None:
    card = open_backbone(task.backbone)
    parts = read_dataset(task).parts
    source = Source(task, card, open_preprocessor(task, card), parts)
    plain, half = (
        Reader(source, load(card.folder), dtype, tmp_path, Clock()).hidden("test", parts.test)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.states.dtype == torch.bfloat16
    assert (plain.states - half.states.float()).norm() < 0.02 * plain.states.norm()


@pytest.mark.parametrize(
    ("processor", "chosen"),
    [
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, torch.float32),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_multiplies_it_faster(
    monkeypatch: pytest.MonkeyPatch, processor: dict[str, object], chosen: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert precision.choose("auto") == chosen
    assert precision.choose("bf16") == torch.bfloat16
