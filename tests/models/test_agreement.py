"""Models that are read otherwise than Transformers reads them are refused; the others pass, with or without maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from miniatures import CORPUS, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import glassbox.models.generation as generation
import glassbox.models.loading as loading
import glassbox.models.signals as signals
from glassbox.config.settings import ModelSettings, load_settings
from glassbox.errors import GlassboxError
from glassbox.models.agreement import (
    PlainAnswers,
    ask_plainly,
    draw_probes,
    require_agreement,
    require_agreement_once,
)
from glassbox.models.context import require_lengths
from glassbox.models.loading import load_model, model_digest
from glassbox.models.signals import ATTENTION_NAME, gives_attention

TEXTS = [(text[:-9], text[-9:]) for text in CORPUS] + [(CORPUS[3] * 2, " 12 - 5 = 7")]
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "lm_head_multiplier": 0.25},
    "bloom": {"n_layer": 2, "n_head": 4},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 6},
    "falcon": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
    "rwkv": {"attention_hidden_size": 32},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


def drawn(folders: Path, kind: str) -> ModelSettings:
    folder = folders / kind
    if not folder.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(type(AutoConfig.for_model(kind))(**SHAPE | KINDS[kind]))
            for name, weight in model.named_parameters():
                if "sinks" in name:  # trained sinks are not zero
                    torch.nn.init.normal_(weight, std=1.0)
        model.save_pretrained(folder)
    return ModelSettings(model=str(folder), dtype="float32")


def plain_answers(settings: ModelSettings) -> PlainAnswers:
    tokenizer = tiny_tokenizer()
    return ask_plainly(settings, draw_probes(tokenizer, TEXTS, 256), end=int(tokenizer.eos_token_id))


def refusal(settings: ModelSettings) -> str:
    with pytest.raises(GlassboxError) as error:
        plain, model = plain_answers(settings), load_model(settings)
        require_agreement(settings, model, plain, wants_attention=gives_attention(model))
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "maps"),
    [("llama", True), ("lfm2", True), ("bamba", True), ("bloom", False), ("gpt_neo", False), ("falcon", False)]
    + [("mamba2", False)],
)
def test_a_model_that_is_read_rightly_passes(folders: Path, kind: str, maps: bool) -> None:
    settings = drawn(folders, kind)
    model = load_model(settings)
    assert gives_attention(model) is maps
    require_agreement(settings, model, plain_answers(settings), wants_attention=maps)


def test_half_precision_has_its_own_tolerance(folders: Path) -> None:
    settings = drawn(folders, "llama").model_copy(update={"dtype": "bfloat16"})
    require_agreement(settings, load_model(settings), plain_answers(settings), wants_attention=True)


def test_attention_sinks_are_noticed(folders: Path) -> None:
    message = refusal(drawn(folders, "gpt_oss"))
    assert "GptOssForCausalLM" in message and "hidden states differ by" in message and "sinks" in message
    assert "of an attention row of the last layer lies elsewhere" in message and "docs/models.md" in message


def test_a_factor_on_the_logits_is_noticed_under_whatever_name(folders: Path) -> None:
    assert "logits differ by 300.00% of their norm" in refusal(drawn(folders, "falcon_h1"))


def test_a_model_that_cannot_be_padded_on_the_left_is_refused(folders: Path) -> None:
    assert "logits of generated tokens differ" in refusal(drawn(folders, "rwkv"))


def test_a_model_that_sees_the_future_is_refused(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "attention_of", lambda config: ATTENTION_NAME)
    assert "moves hidden states before it" in refusal(drawn(folders, "bloom"))


def test_maps_of_another_layer_are_noticed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "layers_of", lambda config: 1)
    message = refusal(drawn(folders, "llama"))
    assert "of an attention row of the last layer lies elsewhere" in message and "hidden states" not in message


def test_a_mask_that_generation_forgets_is_noticed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    padded = generation.left_padded

    def unmasked(prompts: Any) -> Any:
        ids, mask = padded(prompts)
        return ids, torch.ones_like(mask)

    monkeypatch.setattr(generation, "left_padded", unmasked)
    assert "logits of generated tokens differ" in refusal(drawn(folders, "llama"))


def test_rows_that_change_places_when_others_leave_are_noticed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    select = generation.GrowingLayer.batch_select_indices
    monkeypatch.setattr(generation.GrowingLayer, "batch_select_indices", lambda self, kept: select(self, kept.flip(0)))
    assert "logits of generated tokens differ" in refusal(drawn(folders, "llama"))


def test_code_of_a_model_that_fails_is_a_sentence(folders: Path) -> None:
    settings = drawn(folders, "llama")
    plain, model = plain_answers(settings), load_model(settings)
    model.model.norm = None  # type: ignore[assignment]
    with pytest.raises(GlassboxError, match="cannot be used here: reading it as this project does ends in TypeError"):
        require_agreement(settings, model, plain, wants_attention=False)


def test_what_agreed_once_is_remembered_by_its_weights(folders: Path, tmp_path: Path, monkeypatch: Any) -> None:
    settings = drawn(folders, "llama")
    model, asked = load_model(settings), []
    import glassbox.models.agreement as agreement

    def counted(*arguments: Any, **options: Any) -> PlainAnswers:
        asked.append(1)
        return ask_plainly(*arguments, **options)

    monkeypatch.setattr(agreement, "ask_plainly", counted)
    options: dict[str, Any] = {"max_length": 256, "vocabulary": 320, "wants_attention": True, "remembered": tmp_path}
    for _ in range(2):
        require_agreement_once(settings, model, tiny_tokenizer(), TEXTS, weights=model_digest(model), **options)
    assert len(asked) == 1
    with torch.no_grad():
        model.lm_head.weight[0] += 1  # type: ignore[union-attr]
    with pytest.raises(GlassboxError, match="logits differ"):
        require_agreement_once(settings, model, tiny_tokenizer(), TEXTS, weights=model_digest(model), **options)


def test_a_quantised_model_is_refused_by_name_before_it_is_opened(folders: Path, tmp_path: Path) -> None:
    config = json.loads((Path(drawn(folders, "llama").model) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GlassboxError, match=r"quantised \(gptq\).*Name the model that it was quantised from"):
        load_model(ModelSettings(model=str(tmp_path)))


def test_a_student_with_a_short_context_is_refused_with_the_setting(folders: Path) -> None:
    model = drawn(folders, "llama")
    settings = load_settings(Path(__file__).parents[2] / "params.yaml")
    snapshot = settings.snapshot.model_copy(update={"max_length": 300})
    both = settings.model_copy(update={"teacher": model, "student": model, "snapshot": snapshot})
    with pytest.raises(GlassboxError, match=r"the student reads at most 256 tokens: `-S snapshot.max_length=256`"):
        require_lengths(both)
