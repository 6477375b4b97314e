"""An image task under watch: reviewers see the pictures, drift is seen in them."""

import io
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image

from monitoring import drift_job
from monitoring.app import create_app
from monitoring.descriptors import NAMES, image_facts
from monitoring.drift_window import Reports
from monitoring.monitor import Monitor
from regraft.cli import main
from regraft.errors import NotFound
from regraft.events import DriftMeasured, PredictionMade
from regraft.inputs import InputStore, reference_of
from regraft.preprocessing import describe_image
from tests.images import file_of, picture, png
from tests.monitoring.stage import Stage, now, prediction, review


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, input="image", drift={"window": 60, "minimum": 50}) as stage:
        yield stage


@pytest.fixture
def store(stage: Stage) -> InputStore:
    return InputStore(stage.settings.inputs)


@pytest.fixture
def monitor(stage: Stage) -> Iterator[Monitor]:
    monitor = Monitor(stage.settings)
    yield monitor
    monitor.stop()


@pytest.mark.parametrize(("kind", "media"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_the_queue_leads_to_the_picture(
    stage: Stage, store: InputStore, monitor: Monitor, kind: str, media: str
) -> None:
    content = file_of(picture(), kind)
    stage.released("v1")
    stage.append(prediction(audit=0.5, text=store.keep(content)))
    stage.record()
    monitor.judge()
    client = TestClient(create_app(monitor))
    (item,) = client.get("/review/queue").json()["items"]
    shown = client.get(item["picture"])
    assert shown.content == content
    assert shown.headers["content-type"] == media
    assert shown.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert shown.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("reference", [reference_of(b"never"), "..%2f..%2ftask.yaml", "sha256:0"])
def test_nothing_but_kept_pictures_is_shown(monitor: Monitor, reference: str) -> None:
    assert TestClient(create_app(monitor)).get(f"/review/inputs/{reference}").status_code == 404


def test_what_is_no_picture_is_not_shown_as_one(monitor: Monitor, store: InputStore) -> None:
    reference = store.keep(b"<script>alert(1)</script>")
    assert TestClient(create_app(monitor)).get(f"/review/inputs/{reference}").status_code == 422


def pictures(count: int, seed: int, *, light: float = 1.0) -> list[bytes]:
    return [file_of(picture(seed + one).point(lambda value: int(value * light))) for one in range(count)]


def predictions(references: Sequence[str | None], seed: int) -> list[PredictionMade]:
    rng = np.random.default_rng(seed)
    start = now() + timedelta(seconds=seed + 1)
    return [
        prediction(at=start + timedelta(microseconds=i), text=one, features=tuple(rng.normal(size=2)))
        for i, one in enumerate(references)
    ]


def reference_file(images: Sequence[bytes]) -> bytes:
    rows = predictions([None] * len(images), seed=1)
    facts = [list(describe_image(one).items()) for one in images]
    table = pa.table(
        {
            "label": [row.label for row in rows],
            "confidence": [row.confidence for row in rows],
            "features": [list(row.features) for row in rows],
            "facts": pa.array(facts, type=pa.map_(pa.string(), pa.float64())),
        }
    )
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def check(stage: Stage, store: InputStore) -> DriftMeasured:
    stage.record()
    reports = Reports(stage.settings.history)
    found = drift_job.run(stage.log, stage.history, stage.store, reports, stage.task.drift, store)
    assert found is not None
    return found


def test_pictures_that_grow_dark_are_drift_and_lost_ones_are_not(
    stage: Stage, store: InputStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_job, "render", lambda *_: "<title>a report</title>")  # Evidently takes seconds
    stage.version("v1", files={"reference.parquet": reference_file(pictures(150, seed=0))})
    stage.released("v1")
    calm = [store.keep(one) for one in pictures(59, seed=1000)]
    stage.append(*predictions([*calm, reference_of(b"forgotten")], seed=2))
    assert not check(stage, store).drifted
    stage.append(*predictions([store.keep(one) for one in pictures(60, seed=2000, light=0.4)], seed=3))
    dark = check(stage, store)
    assert dark.drifted
    assert dark.columns["brightness"].drifted
    assert not dark.columns["width"].drifted


def test_nothing_is_said_of_a_picture_that_is_not_there(store: InputStore) -> None:
    for reference in (None, reference_of(b"forgotten"), store.keep(b"no picture")):
        assert image_facts(reference, store) == {}
    assert set(image_facts(store.keep(png()), store)) == set(NAMES["image"])


def test_facts_are_of_the_picture_as_it_is_seen() -> None:
    assert describe_image(png(height=30, width=60))["aspect"] == 2
    assert describe_image(file_of(Image.new("1", (4, 4), 1)))["brightness"] == 1


def test_images_are_removed_one_by_one_or_by_age_but_reviewed_ones_stay(stage: Stage, store: InputStore) -> None:
    def run(*arguments: str) -> str:
        return CliRunner().invoke(main, ["--home", str(stage.settings.home), "inputs", *arguments]).output

    known, reviewed, old = (store.keep(content) for content in (b"known", b"reviewed", b"old"))
    made = prediction(text=reviewed)
    stage.append(made, review(made, "positive"))
    stage.record()
    assert run("forget", "1").startswith("0 images removed")
    assert run("remove", known) == ""
    assert "there is no input" in run("remove", known)
    assert "no reference" in run("remove", "../versions")
    assert run("forget", "0") == "1 images removed, those of 1 reviewed labels kept\n"
    assert store.read(reviewed) == b"reviewed"
    with pytest.raises(NotFound):
        store.read(old)
