"""fastai on pictures: `vision_learner` and `fine_tune`, an epoch of the head and three of everything, each one cycle.

channels_last, batches of 32, float32 (fastai's mixed precision is for CUDA alone). Validated after each epoch, the best
epoch is kept.
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from fastai.vision.all import (  # type: ignore[import-not-found]
    CategoryBlock,
    DataBlock,
    F1Score,
    ImageBlock,
    IndexSplitter,
    Normalize,
    Resize,
    ResizeMethod,
    SaveModelCallback,
    set_seed,
    vision_learner,
)
from safetensors.torch import load_file

from benchmarks.training.recipes.job import Answers, Examples, Job, perform

BATCH = 32
EPOCHS = 3  # of everything, after one of the head


def run(job: Job) -> Answers:
    set_seed(job.seed)
    config = json.loads((Path(job.backbone) / "config.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        loaders = loaders_of(job, config["pretrained_cfg"], folder)
        f1 = F1Score(average="macro")
        learner = vision_learner(loaders, config["architecture"], pretrained=False, normalize=False, metrics=f1)
        learner.model[0].model.load_state_dict(load_file(Path(job.backbone) / "model.safetensors"), strict=False)
        learner.to_channelslast(use_amp=False)
        learner.freeze()
        keep = partial(SaveModelCallback, monitor="f1_score")
        with learner.no_bar(), learner.no_logging():
            learner.fine_tune(EPOCHS, base_lr=job.rate or 2e-3, cbs=keep())
            curve = [float(values[-1]) for values in learner.recorder.values]
            answers = learner.get_preds(dl=loaders.test_dl(list(map(Path, job.test.inputs))))[0].argmax(dim=1)
    places = [int(label) for label in loaders.vocab]
    return Answers([places[index] for index in answers.tolist()], curve, [])


def loaders_of(job: Job, config: dict[str, Any], folder: str) -> Any:
    seen = Examples(job.train.inputs + job.validation.inputs, job.train.labels + job.validation.labels)
    labels = dict(zip(map(Path, seen.inputs), seen.labels, strict=True))
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_y=lambda place: labels[place],
        splitter=IndexSplitter(range(len(job.train), len(seen))),
        item_tfms=Resize(tuple(config["input_size"][1:]), method=ResizeMethod.Squish),
        batch_tfms=Normalize.from_stats(config["mean"], config["std"], cuda=False),
    )
    # More processes that read pictures would only take the two processors from the network.
    return block.dataloaders(
        list(map(Path, seen.inputs)), bs=BATCH, val_bs=2 * BATCH, num_workers=0, path=folder, device="cpu"
    )


if __name__ == "__main__":
    perform(run)
