"""The sections of a task file: every choice, with its default and what it means."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from regraft.preprocessing.image import MOST_PIXELS

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _switch(value: object) -> object:
    """In YAML `on` is true and `off` is false."""
    return ("on" if value else "off") if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Backbone(Section):
    """The pre-trained network to start from."""

    source: str = Field(description="a local folder (relative to the task file), a hub id, or timm's name of a network")
    revision: str | None = Field(None, description="hub revision; None takes the newest and records which it was")
    accept_licence: str | None = Field(
        None, description="the licence to accept by name where it is not a permissive one"
    )
    channels: Literal[1, 3, 4] | None = Field(
        None,
        description="of pictures (grey, colours, and alpha), where the network has seen others: it is fitted to them",
    )
    mean: tuple[float, ...] | None = Field(
        None, description="of each channel, of values from 0 to 1; None: the backbone's"
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, description="likewise")

    def found_from(self, folder: Path) -> Self:
        """With the whole path, where it is a folder of `folder`."""
        local = folder / self.source
        return self.model_copy(update={"source": str(local.resolve())}) if local.is_dir() else self


class Compare(Section):
    """What `regraft compare` tries beside the backbone."""

    backbones: tuple[Backbone, ...] = ()
    examples: int = Field(500, ge=10, description="rows of the training part that each is tried on")


class Columns(Section):
    """Which columns of the data files mean what."""

    input: str = "text"
    label: str = "label"
    id: str | None = None
    group: str | None = Field(None, description="rows of one group never stand in two parts")
    time: str | None = Field(None, description="ISO 8601, or seconds since 1970")
    part: str | None = Field(None, description="train, validation or test, where the data itself says so")
    conditions: tuple[str, ...] = Field((), description="source, month, lighting ...: compared with production's")


class Data(Section):
    """The labelled data and how it is parted."""

    files: tuple[str, ...] = Field(
        min_length=1,
        description="CSV, JSON lines or Parquet, relative to the task file; or a folder of pictures, with one for each"
        " label",
    )
    columns: Columns = Columns()
    split: Literal["random", "time"] = Field("random", description="time: the newest rows are the test part")
    near_duplicates: float | None = Field(
        0.8,
        ge=0.7,
        le=1,
        description="inputs as alike as this stay in one part (Jaccard of 5 characters; images: correlation); or null",
    )
    validation: Share = 0.15
    test: Share = 0.15
    seed: int = 0
    maximum_bad_rows: Fraction = Field(0.01, description="training stops when more than this share of rows is bad")


class Augment(Section):
    """How training pictures are changed, each by a random amount up to these; 0 switches a change off."""

    views: int = Field(
        0, ge=0, le=20, description="changed views of each picture; an epoch takes them, or it itself, in turn"
    )
    flip: bool = Field(
        False, description="left and right exchanged in half of the views; not where sides mean something, as in words"
    )
    rotation: float = Field(10.0, ge=0, le=180, description="degrees, either way")
    zoom: Fraction = Field(0.1, description="nearer or further by this share")
    crop: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0, description="share of each side that is cut off, anywhere; what is left fills the picture"
    )
    shift: Annotated[float, Field(ge=0, le=0.5)] = Field(0.05, description="share of the side, in any direction")
    colour: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="of contrast, brightness and saturation")
    noise: Fraction = Field(0.01, description="standard deviation, as a share of what a pixel may be")


class Training(Section):
    """The staged fine-tuning."""

    frozen: Fraction | None = Field(
        None,
        description="share of the layers that the first stage leaves as they are; None: 0.35, or 0.75 on few rows and"
        " for pictures",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="of the first stage; None: 2, or 4 on few rows and for pictures, or 40 if no layer learns",
    )
    revisit: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="share of the rows that epochs after a stage's first go over, those with the largest losses; None:"
        " 0.5, or all of few rows, of pictures and of numbers, and if no layer learns",
    )
    settle: Fraction | None = Field(
        None,
        description="share of the layers that learn, from the lowest, which do so in a stage's first epoch alone; None:"
        " 0.75, or none of them on few rows, of pictures and of numbers",
    )
    stages: int = Field(1, ge=1, le=4, description="2 or 3 let more layers learn afterwards, where that is better")
    thaw: Share = Field(0.2, description="share of the layers that each further stage adds to those that learn")
    stage_epochs: int = Field(3, ge=1, description="of each further stage")
    stage_decay: Share = Field(0.1, description="each further stage's rate is this times that of the stage before")
    batch_size: int = Field(32, ge=1)
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="of the head, layers below get less; None: 5e-4, or 3e-3 if the last layer normalises by batch;"
        " 1e-2 if no layer learns, 1e-3 with an adapter",
    )
    layer_decay: Share | None = Field(
        None,
        description="each layer group's rate is this times that of the one above; None: 0.8, or 0.5 on few rows, and"
        " for networks of pictures that do not normalise by batch",
    )
    schedule: Literal["cosine", "step"] = Field("cosine", description="how the rate falls within a stage")
    drop_epochs: int = Field(
        4,
        ge=1,
        description="epochs after each of which the step schedule divides by ten; of several, but no more than these,"
        " the last is at a tenth",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="how much of the mean of gradients stays from batch to batch; 0.9 for pictures and numbers"
    )
    weight_decay: float | None = Field(None, ge=0, description="None: 1e-3, or 1e-4 where there are few training rows")
    warmup: Fraction = 0.1
    loss: Literal["auto", "cross_entropy", "focal", "mse", "huber"] = Field(
        "auto", description="auto: focal at 10:1 or worse; of numbers Huber's where there are outliers, else mse"
    )
    label_weights: Literal["equal", "root", "balanced"] = Field(
        "equal",
        description="rows of rare labels count for more; balanced: by as much as they are rarer, root: by its root",
    )
    few_shot: Switch = Field(
        "auto", description="contrast labels, then fit the head to what comes of it; auto: on few training rows"
    )
    adapter: int = Field(0, ge=0, le=4, description="layers between backbone and head; 2 to 4 suit a frozen backbone")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="within the backbone's layers that learn; before the head it is 0.1"
    )
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="of texts: share of tokens left out at random, in training alone"
    )
    augment: Augment = Augment()
    validate_every: int = Field(50, ge=1, description="at least so many batches between validations within an epoch")
    patience: int | None = Field(4, ge=1, description="validations without improvement before a stage ends early")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    cache_bytes: int = Field(
        2 * 1024**3, ge=0, description="of memory for the frozen layers' output; what is more goes to a memory map"
    )
    seed: int = 0
    bootstrap: int = Field(2000, ge=100, description="resamples behind each 95% interval")
    force: bool = Field(False, description="do what would be refused: all layers at once, further stages on few rows")


class Report(Section):
    """What else is measured of a version, for its report."""

    robustness_rows: int = Field(200, ge=1, description="test rows that are asked again in worse and worse shape")
    scratch_seconds: float = Field(
        600, gt=0, description="at most so long is spent on the same network from scratch, where that is asked for"
    )


class Value(Section):
    """What wrong answers cost, so that the report can say what a version is worth."""

    errors: dict[str, dict[str, Annotated[float, Field(ge=0)]]] = Field(
        {}, description="truth -> wrong answer -> cost of one; what is not named costs nothing"
    )
    per_unit: float | None = Field(None, gt=0, description="of numbers: the cost of being off by one")
    volume: int = Field(1_000, ge=1, description="predictions a month")
    currency: str = Field("", description="shown beside the figures")


class Export(Section):
    """The ONNX artifacts."""

    features: int = Field(8, ge=2, le=64, description="width of the feature vector that drift is watched on")
    int8: bool = Field(True, description="try an int8 artifact, kept only if it is as good and does not mix neighbours")
    fp16: bool = Field(False, description="try an fp16 artifact for GPUs, kept on the same terms")
    tolerance: float = Field(
        1e-3,
        gt=0,
        description="largest difference in probability that counts as the same answer; of numbers: deviations",
    )
    accuracy_loss: Fraction = Field(
        0.005,
        description="accuracy that int8 or fp16 may lose, as float32 expects it and as is measured beyond chance; of"
        " numbers: deviations",
    )
    interval: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.9, description="share of the truths that the intervals of numbers are to hold"
    )
    golden: int = Field(16, ge=1)


class Serving(Section):
    """What a request may be, and how requests are batched."""

    max_tokens: int = Field(256, ge=8)
    max_characters: int = Field(20_000, ge=1)
    max_pixels: int = Field(25_000_000, ge=1, le=MOST_PIXELS, description="of an image; its header is believed")
    max_body_bytes: int = Field(1_000_000, ge=1_000, description="of a request; for images 10 MB unless stated")
    body_seconds: float = Field(30.0, gt=0, description="for a body to arrive in over HTTP")
    max_items: int = Field(256, ge=1, description="inputs in one /predict/batch")
    max_batch: int = Field(8, ge=1, description="inputs in one run of the network")
    max_queue: int = Field(2_000, ge=1, description="inputs waiting before requests are refused")
    max_requests: int = Field(512, ge=1, description="requests under way in one worker before more are refused")
    sessions: int = Field(2, ge=1, description="ONNX Runtime sessions side by side, one thread each on CPU")
    timeout_seconds: float = Field(10.0, gt=0)


class Audit(Section):
    """The random sample of predictions that reviewers label, whatever users say of them."""

    rate: Fraction = 0.05
    experiment_rate: Fraction = Field(0.25, description="while a candidate runs; audited requests are scored by both")


class Review(Section):
    """What else reviewers are shown."""

    low_confidence: Fraction = Field(0.5, description="predictions with less confidence than this are queued")
    low_confidence_share: Fraction = Field(0.05, description="at most this share of predictions is queued for it")


class Drift(Section):
    """When live inputs, features, predictions or confidence no longer look like the reference."""

    alpha: Share = Field(0.01, description="chance of a false alarm in one check")
    window: int = Field(1000, ge=50, description="newest predictions compared in one check")
    minimum: int = Field(200, ge=20)
    every_seconds: float = Field(3600, gt=0)


class Retraining(Section):
    """When a candidate is trained without anybody asking."""

    drop: Fraction = Field(0.05, description="relative fall of audited accuracy against validation that is acted upon")
    floor: Fraction = Field(0.9, description="audited accuracy below this share of validation accuracy is an alarm")
    on_drift: bool = True
    every: timedelta | None = Field(timedelta(days=30), description="retrain at least this often; null for never")
    minimum_audits: int = Field(100, ge=1, description="reviewed audits before accuracy counts as known")
    new_labels: int = Field(500, ge=0, description="reviewed labels to wait for")
    cool_down: timedelta = timedelta(hours=24)
    newest_share: Share = Field(0.2, description="share of the newest labels held out to judge the candidate")
    forgetting: Fraction = Field(
        0.02, description="accuracy that a candidate may lose on the original test set; of numbers: deviations"
    )


class Experiment(Section):
    """The A/B test of a candidate against production."""

    share: Share = 0.1
    alpha: Share = Field(
        0.05, description="chance of promoting a candidate that is not better, however often one looks"
    )
    minimum: int = Field(20, ge=1)
    cap: int = Field(400, ge=1, description="reviewed disagreements after which production stays")
    automatic: bool = Field(True, description="promote and roll back without a person")
