"""Every causal architecture of Transformers, drawn small: right here, refused, or wrong without a word?

`python benchmarks/architectures.py` prints the tables of docs/models.md; names as arguments try only those.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from miniatures import tiny_tokenizer
from snapshots import sample

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.models.agreement import ask_plainly, draw_probes, require_agreement
from glassbox.models.loading import load_model
from glassbox.models.signals import gives_attention

SECONDS = 90
LARGEST = 30_000_000
VOCABULARY = 320
WITH_MAPS, WITHOUT_MAPS, REFUSED, NOT_BUILT, TRACEBACK = (
    "right, with attention maps",
    "right, without attention maps",
    "refused",
    "not built",
    "TRACEBACK",
)
# Sizes by the names that configurations use for them; those that a configuration does not know are not set
SIZES: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "model_dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "d_inner"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **{"attention_heads": 4, "encoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "d_head": 8},
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size_mlp"), 32),
    **{"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "expert_ffn_hidden_size": 32, "ffn_hidden_size": 64},
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"index_n_heads": 2, "index_head_dim": 8, "index_topk": 64, "rotary_dim": 4, "hidden_size_per_layer_input": 8},
    **{"vocab_size_per_layer_input": VOCABULARY, "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16},
    **{"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "state_size": 8, "mamba_dt_rank": 4},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"lru_width": 32, "attention_hidden_size": 32, "sliding_window": 64, "attention_window_size": 64},
    **{"initializer_range": 0.15, "init_std": 0.15, "tie_word_embeddings": False, "is_decoder": True},
    **{"add_cross_attention": False, "pad_head_dim": 8, "num_hash_functions": 2, "dim_ff": 64, "dim_head": 8},
}
# What the names above do not say
PARTICULAR: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_d_head": 8, "lm_head_multiplier": 0.25},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 6},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"]},
    "zamba2": {"num_hidden_layers": 4, "hybrid_layer_ids": [1, 3]},
}
# Tried one after the other until Transformers itself can run the model
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 4, "head_dim": 16},
    {"head_dim": None},
)
UNRUN = "Transformers' own forward pass"


def small_configuration(kind: str, variant: dict[str, Any]) -> Any:
    """The architecture's own configuration with small sizes, those of its text part too."""
    known = CONFIG_MAPPING[kind]
    plain = known()
    wanted = {name: value for name, value in _sizes(kind, variant).items() if hasattr(plain, name)}
    text = plain.get_text_config(decoder=True)
    if text is not plain:
        inner = {name: value for name, value in _sizes(kind, variant).items() if hasattr(text, name)}
        place = next((name for name, value in vars(plain).items() if value is text), None)
    if text is not plain and place:
        return known(**{place: type(text)(**inner).to_dict()})
    return known(**wanted)


def _sizes(kind: str, variant: dict[str, Any]) -> dict[str, Any]:
    chosen = SIZES | PARTICULAR.get(kind, {}) | variant
    return {name: value for name, value in chosen.items() if value is not None}


def draw(kind: str, folder: Path, variant: dict[str, Any]) -> None:
    """A random model of this architecture in a folder. Nothing in it is neutral: no zero bias, no unit norm."""
    config = small_configuration(kind, variant)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size / 1e6:.0f} million weights at these sizes")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_configuration(kind, variant))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point() and (weight.ndim == 1 or weight.std() == 0):
                weight += 0.2 * torch.randn_like(weight)
        head = model.get_output_embeddings()
        if head is not None and head.weight is not model.get_input_embeddings().weight:
            head.weight *= 10  # logits as large as those of trained models, so that a cap shows
    model.save_pretrained(folder)


def tried(kind: str) -> tuple[str, str]:
    """The verdict on one architecture, and why; models that Transformers cannot run at these sizes say nothing."""
    found = (NOT_BUILT, "")
    for variant in VARIANTS:
        found = compared(kind, variant)
        if found[0] != NOT_BUILT:
            break
    return found


def compared(kind: str, variant: dict[str, Any]) -> tuple[str, str]:
    """The verdict at one choice of sizes."""
    tokenizer = tiny_tokenizer(vocabulary=VOCABULARY)
    texts = [(each.prompt, each.answer) for each in (sample("train", index) for index in range(18))]
    with tempfile.TemporaryDirectory() as folder:
        try:
            draw(kind, Path(folder), variant)
        except Exception as error:
            return NOT_BUILT, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:90]}"
        settings = ModelSettings(model=folder, dtype="float32")
        try:
            end = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
            plain = ask_plainly(settings, draw_probes(tokenizer, texts, 256), end=end)
            model = load_model(settings)
            has_maps = gives_attention(model)
            require_agreement(settings, model, plain, wants_attention=has_maps)
        except GlassboxError as error:
            sentence = str(error).replace(folder, kind)
            return (NOT_BUILT if UNRUN in sentence else REFUSED), brief(sentence)
        except Exception as error:
            return TRACEBACK, f"{type(error).__name__}: {error}"
    return (WITH_MAPS if has_maps else WITHOUT_MAPS), ""


def brief(sentence: str) -> str:
    """The reason within a refusal."""
    for before, after in (("eager forward: ", ". "), ("cannot be used here: ", ". Choose"), ("') ", ". ")):
        if before in sentence:
            return sentence.split(before, 1)[1].split(after, 1)[0]
    return sentence


def _child(kind: str, connection: Any) -> None:
    transformers.logging.set_verbosity_error()
    disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    connection.send(tried(kind))


def verdicts(kinds: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each architecture in a process of its own, so that none can end or slow the others."""
    context = multiprocessing.get_context("fork")
    for kind in kinds:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(kind, sender))
        process.start()
        sender.close()
        try:
            found = receiver.recv() if receiver.poll(SECONDS) else (NOT_BUILT, f"not done in {SECONDS} s")
        except EOFError:
            found = (TRACEBACK, "the process ended without a word")
        process.kill()
        process.join()
        yield kind, *found
        print(kind, *found, file=sys.stderr, flush=True)


def main() -> None:
    torch.set_num_threads(1)
    found = list(verdicts(sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)))
    for verdict in (WITH_MAPS, WITHOUT_MAPS, TRACEBACK):
        kinds = [kind for kind, each, _ in found if each == verdict]
        print(f"\n**{verdict}** ({len(kinds)}): {', '.join(kinds)}")
    for verdict in (REFUSED, NOT_BUILT):
        rows = [(kind, why) for kind, each, why in found if each == verdict]
        print(f"\n**{verdict}** ({len(rows)}):\n\n| architecture | why |\n|---|---|")
        print("\n".join(f"| {kind} | {why.replace('|', '/')} |" for kind, why in rows))


if __name__ == "__main__":
    main()
