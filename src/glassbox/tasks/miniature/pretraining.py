"""How the embedded models were made: two tokenizers, three small Llamas and a Mixtral that is grown from the largest,
pretrained on the pretraining bucket of the three miniature tasks and on statements about the closed world.

Nothing here is part of a study; `src/pretrain.py` is a frozen stage whose results ship in data/embedded/.
"""

import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from glassbox.config.settings import PretrainedModelSettings, PretrainMixture, PretrainSettings
from glassbox.tasks.miniature import generators as embedded
from glassbox.tasks.miniature import vocabularies, world
from glassbox.tasks.sample import Sample

METASPACE_STUDENT = "metaspace_student"
TOKENIZER_SAMPLES = 6000
CHUNKS = 3
CHECKPOINT_INTERVAL = 250
MAX_POSITIONS = 1024
BALANCE = 0.01


def statements(seed: str) -> Iterator[Sample]:
    """Facts of the closed world in a random order without end, half of them as questions without options."""
    generator = random.Random(f"statement/{seed}")
    while True:
        path, who = generator.choice(world.PATHS), generator.choice(world.PEOPLE)
        answer = world.answer(who, path)
        if generator.random() < 0.5:
            text = path.statement.format(who=who, answer=answer)
            yield Sample(f"statement/{text}", "statement", "", text, (), "")
        else:
            prompt = f"Question: {path.question.format(who=who)}\nAnswer:"
            yield Sample(f"statement/{prompt}", "statement", prompt, f" {answer}", (), "")


def mixture(shares: PretrainMixture, seed: str) -> Iterator[Sample]:
    """Pretraining samples of all kinds in these shares; none belongs to a study's split."""
    streams = {task: embedded.stream(task, "pretraining", seed) for task in embedded.GENERATORS}
    streams["statement"] = statements(seed)
    weights = shares.model_dump()
    generator = random.Random(f"mixture/{seed}")
    while True:
        yield next(streams[generator.choices(list(weights), list(weights.values()))[0]])


def train_tokenizer(role: str, settings: PretrainSettings) -> PreTrainedTokenizerFast:
    """The tokenizer of an embedded model: byte-level, or metaspace for the student that cuts text otherwise."""
    samples = itertools.islice(mixture(settings.teacher.mixture, "tokenizer"), TOKENIZER_SAMPLES)
    texts = (sample.prompt + sample.answer for sample in samples)
    if role == METASPACE_STUDENT:
        return vocabularies.metaspace(texts, settings.metaspace_vocabulary)
    return vocabularies.byte_level(texts, settings.vocabulary)


def encode_batch(tokenizer: PreTrainedTokenizerFast, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids [B, L] and which of them [B, L] are targets: the answer and the end of sequence."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    prompts = tokenizer([sample.prompt for sample in samples], add_special_tokens=False)["input_ids"]
    answers = tokenizer([sample.answer for sample in samples], add_special_tokens=False)["input_ids"]
    rows = [[bos, *prompt, *answer, eos] for prompt, answer in zip(prompts, answers, strict=True)]
    targets = [[False] * (len(p) + 1) + [True] * (len(a) + 1) for p, a in zip(prompts, answers, strict=True)]
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    return ids, torch.tensor([row + [False] * (length - len(row)) for row in targets])


def loss_sum(model: PreTrainedModel, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over the targets of next-token cross-entropies, and of the load balance of experts where there are some.

    Right padding needs no mask under causal attention.
    """
    experts = isinstance(model, MixtralForCausalLM)
    output = model.base_model(input_ids=ids[:, :-1], **({"output_router_logits": True} if experts else {}))
    wanted = targets[:, 1:]
    head: Any = model.get_output_embeddings()
    logits = head(output.last_hidden_state[wanted])
    loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="sum")
    if experts:
        config, real = model.config, ids[:, :-1] != model.config.pad_token_id
        balance = load_balancing_loss_func(
            output.router_logits, config.num_local_experts, config.num_experts_per_tok, real
        )
        loss = loss + BALANCE * wanted.sum() * balance
    return loss


def learning_rate_factor(step: int, steps: int, decay: float, warmup: int = 200) -> float:
    """Warm-up, a plateau, then a linear descent over the last `decay` share of the steps."""
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, decay * steps))


def build(settings: PretrainedModelSettings, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    torch.manual_seed(settings.samples_seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.width,
        "intermediate_size": settings.feed_forward,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.key_value_heads,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        "tie_word_embeddings": False,
    }
    experts = settings.experts
    if experts is None:
        return LlamaForCausalLM(LlamaConfig(**shape))
    sparse = MixtralForCausalLM(
        MixtralConfig(**shape, num_local_experts=experts.count, num_experts_per_tok=experts.chosen)
    )
    dense = LlamaForCausalLM.from_pretrained(experts.made_from, dtype=torch.float32)
    grow(sparse, dense, torch.Generator().manual_seed(settings.samples_seed))
    return sparse


@torch.no_grad()
def grow(sparse: MixtralForCausalLM, dense: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Give a mixture the dense model's weights, each expert some of its neurons (Komatsuzaki et al. 2023).

    The experts' neurons are drawn anew for each, so that experts differ from the start; what they say is scaled up to
    the whole block's size. The gates keep what they were drawn with.
    """
    weights = dense.state_dict()
    own = sparse.state_dict()
    sparse.load_state_dict({name: weights.get(name, value) for name, value in own.items()})
    pairs: Any = zip(sparse.model.layers, dense.model.layers, strict=True)
    for layer, origin in pairs:
        experts, block = layer.mlp.experts, origin.mlp
        neurons = block.down_proj.weight.shape[1]
        for expert in range(experts.num_experts):
            drawn = torch.randperm(neurons, generator=generator)[: experts.intermediate_dim]
            gate_up = torch.cat([block.gate_proj.weight[drawn], block.up_proj.weight[drawn]])
            experts.gate_up_proj[expert] = gate_up
            experts.down_proj[expert] = block.down_proj.weight[:, drawn] * (neurons / len(drawn))


def save_checkpoint(folder: Path, step: int, model: PreTrainedModel, optimizer: torch.optim.AdamW) -> None:
    """Model and AdamW moments as safetensors, published by one rename."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "next.safetensors", metadata={"step": str(step)})
    os.replace(folder / "next.safetensors", folder / f"step-{step:06d}.safetensors")


def load_checkpoint(folder: Path, model: PreTrainedModel, optimizer: torch.optim.AdamW) -> int:
    """Restore the newest checkpoint and return the step to go on with; 0 where there is none."""
    found = sorted(folder.glob("step-*.safetensors"))
    if not found:
        return 0
    step = int(found[-1].stem.removeprefix("step-"))
    tensors = load_file(found[-1])
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": tensors[f"exp_avg.{name}"],
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"],
        }
    return step


def pretrain(
    role: str,
    settings: PretrainedModelSettings,
    shared: PretrainSettings,
    tokenizer: PreTrainedTokenizerFast,
    scratch: Path,
) -> PreTrainedModel:
    """Train one embedded model; the same call after an interruption goes on from the last checkpoint."""
    model = build(settings, tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, foreach=True
    )
    start = load_checkpoint(scratch / role, model, optimizer)
    samples = mixture(settings.mixture, f"{role}/{settings.samples_seed}/{start}")
    progress = tqdm(range(start, settings.steps), initial=start, total=settings.steps, desc=role, disable=None)
    clock = time.monotonic()
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(step, settings.steps, settings.decay)
        batch = sorted(itertools.islice(samples, shared.batch_size), key=lambda sample: len(sample.prompt))
        size = -(-len(batch) // CHUNKS)
        chunks = [encode_batch(tokenizer, batch[at : at + size]) for at in range(0, len(batch), size)]
        normaliser = sum(targets.sum() for _, targets in chunks)
        losses = []
        for ids, targets in chunks:
            loss = loss_sum(model, ids, targets) / normaliser
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % CHECKPOINT_INTERVAL == 0:
            save_checkpoint(scratch / role, step + 1, model, optimizer)
            rate = (time.monotonic() - clock) / (step + 1 - start)
            print(
                f"{role}: step {step + 1} of {settings.steps}, loss {sum(losses):.4f}, {rate:.3f} s a step", flush=True
            )
    return model


def publish(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, provenance: dict) -> None:
    """A plain Transformers folder with float16 weights and its provenance, moved into place by one rename."""
    staging = folder.with_name(f".{folder.name}-staging")
    shutil.rmtree(staging, ignore_errors=True)
    model.half().save_pretrained(staging, safe_serialization=True)
    tokenizer.save_pretrained(staging)
    text = json.dumps(provenance, indent=2, sort_keys=True) + "\n"
    (staging / "provenance.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staging, folder)
