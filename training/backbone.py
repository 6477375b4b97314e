"""Where the pre-trained network comes from, and whether it may be used.

source (local folder or hub id) -> folder of safetensors -> hash, revision and licence -> BackboneCard, or ConfigError
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import yaml
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from regraft.errors import ConfigError
from regraft.preprocessing import TextPreprocessor, TextSpec
from regraft.sections import Backbone
from regraft.task import Task
from training.pictures import timm_config

# Licences that allow commercial use of what is made from the weights, by the names that model cards use.
PERMISSIVE = frozenset(
    {"apache-2.0", "mit", "isc", "unlicense", "zlib", "wtfpl", "ncsa", "postgresql", "ms-pl", "pddl", "artistic-2.0"}
    | {"bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "afl-3.0", "ecl-2.0", "cc0-1.0", "cc-by-2.0", "cc-by-3.0"}
    | {"cc-by-4.0", "cdla-permissive-1.0", "cdla-permissive-2.0"}
)
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")  # no pickles, no code


@dataclass(frozen=True)
class BackboneCard:
    source: str
    revision: str | None
    folder: Path
    weights_sha256: str
    licence: str
    licence_accepted_by_name: bool
    model_type: str
    training_data: tuple[str, ...]
    input_format: str
    bytes: int

    def lines(self) -> list[str]:
        """What to know before relying on it."""
        said = [f"backbone: {self.source}, {self.model_type}, licence {self.licence}; it takes {self.input_format}"]
        if self.training_data:
            return [*said, f"pre-trained on {', '.join(self.training_data)}, as its model card says"]
        warning = "its model card names no training data: whether your rows are among it cannot be checked"
        return [*said, warning]

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def open_backbone(backbone: Backbone) -> BackboneCard:
    """Find the backbone's files and read its card. Raises ConfigError when it may not or cannot be used."""
    folder, revision = _locate(backbone)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(f"the backbone {backbone.source} has no safetensors; pickled weights are never loaded")
    card = _front_matter(folder / "README.md")
    licence = _licence(folder, card)
    _check_licence(backbone, licence)
    config = _config(folder)
    return BackboneCard(
        source=backbone.source,
        revision=revision,
        folder=folder,
        weights_sha256=_sha256(weights),
        licence=licence or "unknown",
        licence_accepted_by_name=backbone.accept_licence is not None
        and backbone.accept_licence == (licence or "unknown"),
        model_type=config.model_type,
        training_data=tuple(map(str, card.get("datasets") or ())),
        input_format=_input_format(config) + (f", fitted to {backbone.channels}" if backbone.channels else ""),
        bytes=sum(file.stat().st_size for file in weights),
    )


def open_tokenizer(card: BackboneCard) -> bytes:
    """The tokenizer's JSON."""
    file = card.folder / "tokenizer.json"
    if file.is_file():
        return file.read_bytes()
    loaded: Any = AutoTokenizer.from_pretrained(card.folder, trust_remote_code=False)
    return bytes(loaded.backend_tokenizer.to_str().encode())


def open_preprocessor(task: Task, card: BackboneCard) -> TextPreprocessor:
    """The backbone's own tokenizer with the task's limits."""
    body = open_tokenizer(card)
    config = _config(card.folder)
    longest = int(getattr(config, "max_position_embeddings", task.serving.max_tokens))
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        longest -= 2  # their positions begin after the padding index
    pad = config.pad_token_id
    spec = TextSpec(
        max_tokens=min(task.serving.max_tokens, longest),
        max_characters=task.serving.max_characters,
        pad_id=pad if pad is not None else Tokenizer.from_str(body.decode()).token_to_id("[PAD]") or 0,
    )
    return TextPreprocessor(body, spec)


def _locate(backbone: Backbone) -> tuple[Path, str | None]:
    local = Path(backbone.source)
    if local.is_dir():
        return local, None
    try:
        source = _hub_id(backbone.source)
        folder = Path(snapshot_download(source, revision=backbone.revision, allow_patterns=list(WANTED)))
    except Exception as error:  # the hub's client raises many unrelated kinds
        raise ConfigError(
            f"the backbone {backbone.source} is no local folder and cannot be fetched: {error}"
        ) from error
    return folder, folder.name  # the hub keeps each snapshot under its commit


def _hub_id(source: str) -> str:
    """`source`, or where timm keeps the weights of a network that it knows by this name."""
    known = timm.get_pretrained_cfg(source, allow_unregistered=False) if timm.is_model(source) else None
    return str(known.hf_hub_id) if known and known.hf_hub_id else source


def _check_licence(backbone: Backbone, licence: str | None) -> None:
    name = licence or "unknown"
    if name in PERMISSIVE or backbone.accept_licence == name:
        return
    what = "states no licence" if licence is None else f"has the licence '{name}', which is not known to be permissive"
    raise ConfigError(f"the backbone {backbone.source} {what}; if you may use it, set backbone.accept_licence: {name}")


def _licence(folder: Path, card: dict[str, Any]) -> str | None:
    """From the model card's front matter, else from config.json."""
    stated = card.get("license") or getattr(_config(folder), "license", None)
    if stated == "other":
        stated = card.get("license_name") or "other"
    return str(stated).strip().lower() if stated and isinstance(stated, str) else None


def _front_matter(readme: Path) -> dict[str, Any]:
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _config(folder: Path) -> Any:
    if timm := timm_config(folder):
        cfg = timm.get("pretrained_cfg", {})
        size = cfg.get("input_size") or (3, 224, 224)
        return SimpleNamespace(
            model_type=timm["architecture"], license=cfg.get("license"), image_size=size[-1], num_channels=size[0]
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"the backbone's configuration in {folder} cannot be read: {error}") from error


def _input_format(config: Any) -> str:
    config = getattr(config, "vision_config", config)
    side, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if side is not None or channels is not None:  # convolutions take images of any size
        return f"images{f' of {side} pixels' if side else ''} in {channels or 3} channels"
    words = f"text in a vocabulary of {getattr(config, 'vocab_size', 0):,} tokens"
    longest = getattr(config, "max_position_embeddings", None)
    return f"{words}, at most {longest}" if longest else words


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
