"""The Hugging Face Trainer on texts, tuned: texts of like length together, batches of 32, four epochs, a warm-up.

In the number format that is faster on this processor. Validated after each epoch, the best epoch is kept.
"""

import tempfile
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from benchmarks.training.recipes.job import Answers, Examples, Job, perform
from training import precision
from training.evaluate import macro_f1

TUNED: dict[str, Any] = {
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 4,
    "warmup_steps": 0.1,  # a share
    "save_only_model": True,
}


class Texts(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, tokenizer: Any, part: Examples, max_tokens: int) -> None:
        self._ids = tokenizer(part.inputs, truncation=True, max_length=max_tokens)["input_ids"]
        self._labels = part.labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self._ids[index]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": self._labels[index]}


def run(job: Job) -> Answers:
    return train(job, TUNED | {"bf16": precision.choose("auto") == torch.bfloat16})


def train(job: Job, settings: dict[str, Any]) -> Answers:
    """With these settings, and otherwise as the Trainer comes."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(job.backbone)
    torch.manual_seed(job.seed)  # the head's first weights
    model = AutoModelForSequenceClassification.from_pretrained(job.backbone, num_labels=job.classes)
    train, validation, test = (Texts(tokenizer, one, job.max_tokens) for one in (job.train, job.validation, job.test))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            seed=job.seed,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="macro_f1",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings,
            **({} if job.rate is None else {"learning_rate": job.rate}),
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            compute_metrics=metrics,
        )
        trainer.train()
        curve = [entry["eval_macro_f1"] for entry in trainer.state.log_history if "eval_macro_f1" in entry]
        arguments.train_sampling_strategy = "random"  # else predictions come in another order than the rows
        answers = trainer.predict(test).predictions.argmax(axis=1)
    return Answers(answers.tolist(), curve, [])


def metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(prediction.predictions)
    truth = np.asarray(prediction.label_ids)
    return {"macro_f1": macro_f1(truth, logits.argmax(axis=1), logits.shape[1])}


if __name__ == "__main__":
    perform(run)
