"""A tiny real BERT and a task that it can learn, in milliseconds and without a download."""

import csv
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from regraft.task import Task

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for the processes that tests start
GOOD = ["good", "great", "lovely", "fine", "superb"]
BAD = ["bad", "awful", "poor", "broken", "dreadful"]
PLAIN = ["box", "table", "cable", "morning", "street"]
FILLER = ["the", "a", "it", "was", "and", "this", "one", "very", "so", "today", "with", "for"]
LABELS = ("negative", "neutral", "positive")
CARD = "---\nlicense: apache-2.0\ndatasets: [made-up]\n---\n# Tiny\n"


def unmeasured() -> dict[str, str]:
    """The environment of a process without coverage, with which importing takes half as long again. A process that is
    killed leaves none anyway."""
    return {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}


def save_backbone(folder: Path, *, layers: int = 4, width: int = 32, card: str = CARD) -> Path:
    """A transformers folder: random BERT, WordPiece tokenizer, safetensors, model card."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *GOOD, *BAD, *PLAIN]
    words += [f"word{index}" for index in range(1100)]  # a table large enough to be quantised
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )
    torch.manual_seed(7)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "README.md").write_text(card)
    return folder


def sentence(label: str, generator: random.Random) -> str:
    telling = {"positive": GOOD, "negative": BAD, "neutral": PLAIN}[label]
    words = generator.choices(FILLER, k=generator.randint(2, 14)) + generator.choices(telling, k=2)
    generator.shuffle(words)
    return " ".join(words)


def examples(count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """(id, text, label), every label as often."""
    generator = random.Random(seed)
    return [
        (f"r{seed}-{index}", f"{sentence(LABELS[index % 3], generator)} word{index}", LABELS[index % 3])
        for index in range(count)
    ]


def write_csv(file: Path, rows: list[tuple[str, str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "text", "label"))
        writer.writerows(rows)
    return file


TRAINING: dict[str, Any] = {
    "frozen": 0.75,
    "layer_decay": 0.5,
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 2e-2,
    "validate_every": 5,
    "patience": 50,
    "precision": "fp32",
    "bootstrap": 200,
}


def write_task(folder: Path, backbone: Path, rows: list[tuple[str, str, str]], **sections: Any) -> Path:
    """A task file; `sections` replace or, for training, add to what it says."""
    write_csv(folder / "data.csv", rows)
    training = TRAINING | sections.pop("training", {})
    task = {
        "name": "tiny",
        "labels": list(LABELS),
        "backbone": {"source": str(backbone)},
        "data": {"files": ["data.csv"], "columns": {"id": "id"}},
        "training": training,
        "serving": {"max_tokens": 32},
    }
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump(task | sections))
    return file


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def task_file(tmp_path: Path, backbone: Path) -> Path:
    return write_task(tmp_path, backbone, examples(300))


@pytest.fixture
def task(task_file: Path) -> Task:
    return Task.load(task_file)
