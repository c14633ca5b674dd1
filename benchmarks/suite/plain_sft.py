"""Supervised fine-tuning as a Transformers user writes it: the embedded student on the prepared samples, nothing else.

Run in a prepared project: as many epochs, batches of the same size, the model saved; no validation and no test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

sys.path.insert(0, str(Path("src").resolve()))

from glassbox.config.settings import load_settings
from glassbox.models.encoding import encode_sample
from glassbox.tasks.splits import read_split


def main() -> None:
    settings = load_settings("params.yaml")
    torch.set_num_threads(settings.train.threads)
    tokenizer = AutoTokenizer.from_pretrained(settings.student.model)
    tokenizer.pad_token = tokenizer.eos_token
    limits = {"max_length": settings.snapshot.max_length, "overflow": settings.snapshot.overflow}
    rows = []
    for sample in read_split(Path("data/tasks"), "train"):
        encoded = encode_sample(tokenizer, sample.prompt, sample.answer, **limits)
        prompt, ids = encoded.loss_start + 1, list(encoded.ids)
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    arguments = TrainingArguments(
        output_dir="plain_sft",
        num_train_epochs=settings.train.epochs,
        per_device_train_batch_size=settings.train.batch_size,
        learning_rate=settings.train.learning_rate,
        weight_decay=settings.train.weight_decay,
        max_grad_norm=settings.train.clip_norm,
        logging_steps=settings.train.logging_interval,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    model = AutoModelForCausalLM.from_pretrained(settings.student.model, dtype=torch.float32)
    trainer = Trainer(model, arguments, DataCollatorForSeq2Seq(tokenizer), rows)  # type: ignore[arg-type]
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
