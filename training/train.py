"""One experiment from labelled rows to a version: data, network, training, calibration, export, evaluation, report.

    fine_tune(task, dataset, folder, version=...) -> Manifest, and everything the version needs in folder/version

A run that was killed goes on from its checkpoint when it is called again with the same folder, to the same result.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from regraft.errors import ConfigError
from regraft.preprocessing import describe_image
from regraft.task import Task
from regraft.versions import Manifest
from training import artifacts, baselines, checkpoint, report
from training.backbone import open_backbone
from training.clock import Clock
from training.data import Parts, Row, spread
from training.dataset import Dataset
from training.export import (
    FP32,
    Exported,
    check_parity,
    principal_components,
    spread_by_length,
    write_golden,
    write_onnx,
)
from training.kinds import preprocessor_of
from training.learning import SUFFIX, Source, forget, learn
from training.outputs import over_all
from training.pictures import read_image
from training.processes import ALONE, Team
from training.proof import KINDS, Tested, prove
from training.runtime import Scorer, Scores
from training.summary import SCRATCH, WITHOUT_STAGES
from training.targets import Asked
from training.whole import AT_ONCE, FROM_SCRATCH, fine_tune_at_once, train_from_scratch

PARITY_ROWS = 256
SEEN = 2_000  # training rows that directions of features, and how wide intervals are where, are taken from

_log = logging.getLogger(__name__)


def fine_tune(
    task: Task,
    dataset: Dataset,
    folder: Path,
    *,
    version: str,
    request_id: str | None = None,
    parent: str | None = None,
    warm: Path | None = None,
    team: Team = ALONE,
    thorough: bool = False,
) -> Manifest:
    """Train on `dataset` and leave a complete version in `version_folder(folder)`, ready to be published.

    `warm` is the folder of a version that training may start from too. Of several processes only the first calls this,
    the others `take_part`. `thorough` trains the same network without stages and from scratch too, which takes longer
    than all the rest.
    """
    clock, settings, parts = Clock(), task.training, dataset.parts
    same_run(folder / "run.json", task, dataset)
    out = _emptied(version_folder(folder))

    card = open_backbone(task.backbone)
    preprocessor = preprocessor_of(task, card)
    source = Source(task, card, preprocessor, parts, dataset.weights)
    target = source.target
    learned = learn(source, folder, clock, warm=warm, team=team)
    network, reader, progress, dtype = learned.network, learned.reader, learned.progress, learned.reader.dtype
    # Of a run that was killed and goes on the clock has seen the end alone.
    clock.seconds["train"] = max(clock.seconds["train"], round(progress.seconds, 2))
    train, validation = learned.material
    checkpoint.write(out / SUFFIX, learned.changed(), {"backbone": card.weights_sha256})

    with clock.step("calibrate"):
        looked_at = spread(range(len(parts.train)), SEEN)
        seen = over_all(network, train.hidden.some(looked_at), dtype)
        calibrated = target.calibrate(seen, train.labels[looked_at], learned.validated, validation.labels)

    with clock.step("export"):
        projection = principal_components(seen.pooled, task.export.features)
        exported = Exported(network.cpu(), calibrated.module(), projection)
        write_onnx(exported, out / FP32, target.answers.output)
        preprocessor.save(out)
        encodings = preprocessor.encode(texts(parts.validation))
        plain = Scorer(out / FP32, preprocessor)
        parity = check_parity(
            exported, plain, preprocessor, spread(encodings, PARITY_ROWS), task.export.tolerance, target
        )

    with clock.step("choose the precision"):
        truth = target.truth(parts.validation)
        sizes = preprocessor.encode(texts(spread(parts.train, artifacts.CALIBRATION)))  # which may lie by label
        choice = artifacts.choose(out, preprocessor, encodings, truth, task.export, parity, sizes, target)
        chosen, serves, on_gpu = choice
        scorers = {name: Scorer(out / one.file, preprocessor) for name, one in chosen.items() if one.kept}
        golden = spread_by_length(texts(parts.validation), task.export.golden)
        write_golden(out / "golden.json", golden, preprocessor, scorers)

    with clock.step("evaluate"):  # the first and only look at the test part
        options = {"resamples": settings.bootstrap, "seed": task.data.seed}
        validated = scorers[serves].score(encodings)
        tested = scorers[serves].score(preprocessor.encode(texts(parts.test)))
        test_truth, answers = target.truth(parts.test), target.read(tested.answers)
        on_validation = target.evaluate(truth, target.read(validated.answers), **options)
        on_test = target.evaluate(test_truth, answers, **options)

    with clock.step("train the baselines"):
        train, _ = learned.undo()
        tried = reader.hidden("test", parts.test)
        pooled = over_all(network, train.hidden, dtype).pooled, over_all(network, tried, dtype).pooled
        inputs = [KINDS[task.input].inputs(part) for part in (parts.train, parts.test)]
        asked = Asked(inputs[0], target.truth(parts.train), inputs[1], pooled, settings.seed)
        others = target.baselines(asked, baselines.SIMPLE[task.input])

    at_once = scratch = None
    if thorough:
        spent = clock.seconds["run the frozen layers"] + progress.seconds
        with clock.step(WITHOUT_STAGES):
            at_once, others[AT_ONCE] = fine_tune_at_once(network, source, dtype, spent)
        with clock.step(SCRATCH):
            scratch, others[FROM_SCRATCH] = train_from_scratch(network, source, dtype, task.report.scratch_seconds)
    compared = baselines.beside(target, test_truth, answers, others, **options)

    with clock.step("prove it"):
        test = Tested(parts.test, test_truth, tested.answers, target, calibrated)
        kept = {name: one.file for name, one in chosen.items() if one.kept}
        findings, curve = dataset.findings, progress.curve
        proof = prove(task, out, test, others, kept, serves, findings, curve, at_once=at_once, scratch=scratch)
        proof.save(out)

    manifest = Manifest(
        version=version,
        task=task.name,
        created_at=datetime.now(UTC),
        **target.answers.as_task(),
        unit=target.unit,
        input=task.input,
        preprocessing_sha256=preprocessor.sha256,
        features=task.export.features,
        backbone=card.as_json() | learned.description,
        artifacts=chosen,
        serve_cpu=serves,
        serve_gpu=on_gpu,
        tolerance=task.export.tolerance,
        temperature=calibrated.temperature,
        validation=on_validation,
        test=on_test,
        baselines=compared,
        request_id=request_id,
        parent=parent,
        training={
            "settings": settings.model_dump(),
            "precision": str(dtype).removeprefix("torch."),
            "loss": {"name": learned.loss.name, "reason": learned.loss.reason},
            "started_from": learned.started_from,
            "other_starts": learned.others,
            "stages": [asdict(stage) for stage in progress.stages],
            "findings": [finding._asdict() for finding in progress.findings],
            "steps": progress.step,
            "best_step": progress.best_step,
            "stopped_early": progress.stopped_early,
            "interrupted": progress.interrupted,
            "calibration": calibrated.as_json(),
            "parity": asdict(parity),
            "rows": {name: len(part) for name, part in parts._asdict().items()},
            "split_sha256": dataset.card["split_sha256"],
            "seconds": clock.seconds,
            "threads": torch.get_num_threads(),
            "device": team.device.type,
            "processes": team.count,
        },
    )
    (out / "data_card.json").write_text(json.dumps(dataset.card, indent=2, ensure_ascii=False))
    write_rows(out / "rows.parquet", parts)
    scored = [("validation", parts.validation, validated), ("test", parts.test, tested)]
    write_reference(out / "reference.parquet", task, scored)
    report.write(out, manifest)
    return manifest


def take_part(task: Task, dataset: Dataset, folder: Path, team: Team) -> None:
    """In the training of `fine_tune`, which the first process of the team has called; nothing comes of it here."""
    card = open_backbone(task.backbone)
    source = Source(task, card, preprocessor_of(task, card), dataset.parts, dataset.weights)
    learn(source, folder, Clock(), team=team)


def same_run(file: Path, task: Task, dataset: Dataset) -> None:
    """Raises ConfigError when the run in this folder was begun with another task or other data."""
    begun = json.dumps({"task": task.model_dump(mode="json"), "split_sha256": dataset.card["split_sha256"]}, indent=2)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(begun)
    elif file.read_text() != begun:
        raise ConfigError(f"the run in {file.parent} was begun with another task or other data; start a new one")


def version_folder(folder: Path) -> Path:
    """Where a run keeps the files of its version until they are published."""
    return folder / "version"


def tidy(folder: Path) -> None:
    """Forget what a published run no longer needs; its TensorBoard curves stay."""
    shutil.rmtree(version_folder(folder), ignore_errors=True)
    forget(folder)


def texts(rows: Sequence[Row]) -> list[str]:
    """Or the places of images."""
    return [row.input for row in rows]


def write_rows(file: Path, parts: Parts) -> None:
    """Which row, or reviewed prediction, was in which part: the way from a version back to its data."""
    rows = [(name, row) for name, part in parts._asdict().items() for row in part]
    table = {
        "id": [row.id for _, row in rows],
        "part": [name for name, _ in rows],
        "place": [row.place for _, row in rows],
        "label": [row.label for _, row in rows],
        "text": [row.key for _, row in rows],
    }
    pq.write_table(pa.table(table), file, compression="zstd")


def write_reference(file: Path, task: Task, scored: list[tuple[str, list[Row], Scores]]) -> None:
    """What the version answers where it was not trained: what live traffic is compared with."""
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "part", "input", "label", "confidence", "true_label")}
    for name, rows, scores in scored:
        columns["id"] += [row.id for row in rows]
        columns["part"] += [name] * len(rows)
        columns["input"] += texts(rows)
        said = [task.answers.said(row) for row in scores.answers.tolist()]
        columns["label"] += [one.label for one in said]
        columns["confidence"] += [one.confidence for one in said]
        columns["true_label"] += [row.label for row in rows]
    reals = pa.list_(pa.float32())
    table = pa.table(columns)
    for column, field in (("features", "features"), (task.answers.output, "answers")):
        values = [value for _, _, scores in scored for value in getattr(scores, field).tolist()]
        table = table.append_column(column, pa.array(values, type=reals))
    if task.input == "image":  # drift is watched on these: later the files may be elsewhere
        facts = [list(describe_image(read_image(row.input)).items()) for _, rows, _ in scored for row in rows]
        table = table.append_column("facts", pa.array(facts, type=pa.map_(pa.string(), pa.float64())))
    pq.write_table(table, file, compression="zstd")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
