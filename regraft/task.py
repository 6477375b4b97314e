"""One prediction problem, described by one `task.yaml`: what goes in, what comes out, every choice with its default.

text -> YAML nodes (which know their lines) -> plain values -> Task. Whatever does not fit names the key, the file and
the line.
"""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from regraft.answers import Answers, Kind, Numbers, answers_of
from regraft.errors import ConfigError
from regraft.sections import (
    Audit,
    Backbone,
    Compare,
    Data,
    Drift,
    Experiment,
    Export,
    Report,
    Retraining,
    Review,
    Section,
    Serving,
    Training,
    Value,
)

IMAGE_BODY_BYTES = 10_000_000
ALIKE_IMAGES = 0.995  # correlation of thumbnails
USUAL_TRAINING = {"revisit": 1.0, "settle": 0.0, "momentum": 0.9}  # of all but texts with labels


class Task(Section):
    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")
    kind: Kind = "classification"
    input: Literal["text", "image"] = "text"
    labels: tuple[str, ...] = Field((), max_length=1000, validate_default=True)
    range: Numbers | None = Field(None, description="of a regression: what values there are; null: any")
    backbone: Backbone
    compare: Compare = Compare()
    data: Data
    training: Training = Training()
    report: Report = Report()
    value: Value | None = None
    export: Export = Export()
    serving: Serving = Serving()
    audit: Audit = Audit()
    review: Review = Review()
    drift: Drift = Drift()
    retraining: Retraining = Retraining()
    experiment: Experiment = Experiment()

    @property
    def answers(self) -> Answers:
        return answers_of(self.kind, self.labels, self.range)

    @model_validator(mode="before")
    @classmethod
    def _suit(cls, values: Any) -> Any:
        """Defaults that an image task, or a regression, has otherwise."""
        if not isinstance(values, dict):
            return values
        defaults: dict[str, dict[str, Any]] = {}
        if values.get("input") == "image":
            defaults["serving"] = {"max_body_bytes": IMAGE_BODY_BYTES}
            defaults["data"] = {"near_duplicates": ALIKE_IMAGES}
            defaults["training"] = USUAL_TRAINING
        if values.get("kind") == "regression":
            defaults["training"] = {"few_shot": "off"} | USUAL_TRAINING
        sections = {name: values.get(name, {}) for name in defaults}
        return values | {name: defaults[name] | one for name, one in sections.items() if isinstance(one, dict)}

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("kind") == "regression":
            if labels:
                raise ValueError("a regression has none")
        elif len(labels) < 2:
            raise ValueError("is missing" if not labels else "there should be at least two")
        if len(set(labels)) != len(labels):
            raise ValueError("must differ from each other")
        if any(not label.strip() for label in labels):
            raise ValueError("a label must not be empty")
        return labels

    @field_validator("range")
    @classmethod
    def _check_range(cls, allowed: Numbers | None, info: ValidationInfo) -> Numbers | None:
        if allowed is not None and info.data.get("kind") != "regression":
            raise ValueError("is of a regression (kind: regression)")
        return allowed

    @field_validator("training")
    @classmethod
    def _check_training(cls, training: Training, info: ValidationInfo) -> Training:
        """What only one kind of task has."""
        of_labels = {
            "loss": training.loss in {"cross_entropy", "focal"},
            "label_weights": training.label_weights != "equal",
            "few_shot": training.few_shot == "on",
        }
        if info.data.get("kind") != "regression" and training.loss in {"mse", "huber"}:
            raise ValueError(f"loss: {training.loss} is of a regression")
        if info.data.get("kind") == "regression" and any(of_labels.values()):
            name = next(name for name, there in of_labels.items() if there)
            raise ValueError(f"{name}: {getattr(training, name)} is of a classification")
        return training

    @field_validator("value")
    @classmethod
    def _check_value(cls, value: Value | None, info: ValidationInfo) -> Value | None:
        if value is None:
            return None
        of_numbers = info.data.get("kind") == "regression"
        if of_numbers and (value.errors or value.per_unit is None):
            raise ValueError("a regression has per_unit, and no errors")
        if not of_numbers and (not value.errors or value.per_unit is not None):
            raise ValueError("a classification has errors, and no per_unit")
        labels = info.data.get("labels", ())
        for truth, costs in value.errors.items() if labels else ():
            if unknown := {truth, *costs} - set(labels):
                raise ValueError(f"errors: unknown label {min(unknown)!r}")
            if truth in costs:
                raise ValueError(f"errors: {truth!r} for {truth!r} is no error")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data.validation + self.data.test >= 1:
            raise ValueError("data.validation and data.test leave nothing to train on")
        if self.data.split == "time" and self.data.columns.time is None:
            raise ValueError("data.split: time needs data.columns.time")
        if self.input != "image" and (self.backbone.channels or self.backbone.mean or self.backbone.std):
            raise ValueError("backbone.channels, mean and std are for pictures")
        if self.input != "image" and self.training.augment.views:
            raise ValueError("training.augment.views: only pictures have views; of texts tokens are left out at random")
        if self.input == "image" and self.training.token_dropout:
            raise ValueError("training.token_dropout: only texts have tokens; training.augment.views is for pictures")
        if self.drift.minimum > self.drift.window:
            raise ValueError("drift.minimum must not exceed drift.window")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """The task that `path` describes, its own paths made absolute. Raises ConfigError with file, line and key."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: is not YAML: {error}") from error
        if root is None or not isinstance(values, dict):
            raise ConfigError(f"{path}: line 1: a task file is a mapping of keys to values")
        try:
            return cls.model_validate(values)._with_absolute_paths(path.resolve().parent)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(path, root, problem) for problem in error.errors())) from error

    def _with_absolute_paths(self, folder: Path) -> Self:
        files = tuple(str(folder / file) for file in self.data.files)
        others = tuple(other.found_from(folder) for other in self.compare.backbones)
        return self.model_copy(
            update={
                "data": self.data.model_copy(update={"files": files}),
                "backbone": self.backbone.found_from(folder),
                "compare": self.compare.model_copy(update={"backbones": others}),
            }
        )


def _explain(path: Path, root: yaml.Node, problem: Any) -> str:
    keys = [str(key) for key in problem["loc"]]
    name = ".".join(keys) or "the file"
    if problem["type"] == "extra_forbidden":
        message = f"unknown key '{name}'"
    elif problem["type"] == "missing":
        message = f"'{name}' is missing"
    else:
        message = f"'{name}': {problem['msg'].removeprefix('Value error, ')}"
    return f"{path}: line {_line(root, keys)}: {message}"


def _line(node: yaml.Node, keys: list[str]) -> int:
    """The line on which the innermost existing key of `keys` stands, from 1."""
    line = node.start_mark.line + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == key), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
    return line
