"""The model card of a kept student: what it was made from, how it was scored, and how to get that score again."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.evaluation.evaluation import Evaluation


def model_card(
    settings: Settings, group: str, seed: int, snapshot: str, evaluation: Evaluation, tokenizer: PreTrainedTokenizerFast
) -> str:
    """Markdown with the metadata that the hub reads; `snapshot` is the logical digest of what was learned from."""
    own = settings.distill[group]
    weights = ", ".join(f"{name} {weight}" for name, weight in own.components.items())
    share = "" if own.shuffled_share == 1 else f" for {100 * own.shuffled_share:g} % of the samples"
    other = f" Read off other samples{share}: {', '.join(own.shuffled)}." if own.shuffled else ""
    experts = own.experts
    other += f" Of the teacher's experts speak: {experts}." if experts else ""
    embedded = any(task.source == "embedded" for task in settings.prepare.tasks.values())
    note = " (embedded miniature tasks, not the benchmarks they are named for)" if embedded else ""
    scores = "\n".join(
        f"| {score.metric} | {score.value:.4f} | {score.n_evaluated} |" for score in evaluation.scores.values()
    )
    train = settings.train
    bos = "no token" if tokenizer.bos_token is None else f"`{tokenizer.bos_token}`, which its tokenizer adds by itself"
    return f"""---
library_name: transformers
tags: [distillation, glassbox]
---
# {settings.student.model}, distilled as group `{group}`, seed {seed}

Teacher: `{settings.teacher.model}`, read from snapshot `{snapshot}`.
Weights of the objective: {weights}.{other} Temperature {settings.temperature(group)}.
Training: {train.epochs} epochs of {train.batch_size} samples a step, AdamW with learning rate
{settings.learning_rate(group)}, weight decay {train.weight_decay}, gradients clipped at {train.clip_norm}.
Scale: `{settings.scale}`{note}.

| test metric | value | items |
|---|---|---|
{scores}

Every text begins with {bos}. A prompt is the plain text of the task without a chat template; choices are scored by the
log-likelihood of their text after it, other answers are generated greedily, up to {settings.evaluation.max_new_tokens}
tokens.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
prompt = tokenizer("Question: What is 3 + 4?\\nAnswer:", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=32)[0]))
```

`projectors.safetensors`, where present, was used in training only.
"""
