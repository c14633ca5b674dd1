"""The last layer's feed-forward block on chosen rows alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from glassbox.models.last_layer import feed_forward_at

IDS = torch.arange(120).reshape(4, 30) % 50


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


def rows_seen(model: LlamaForCausalLM, positions: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The final hidden states, and over how many rows the last layer's block ran."""
    block = model.model.layers[-1].mlp
    seen: list[int] = []
    hook = block.down_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].flatten(0, -2).shape[0]))
    with torch.no_grad(), feed_forward_at(model, positions):
        hidden = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    hook.remove()
    assert "forward" not in vars(block)
    return hidden.flatten(0, 1), seen[0]


@pytest.mark.parametrize("count", [1, 5, 16, 40])
def test_wanted_rows_have_the_same_bits_and_few_rows_are_computed(llama: LlamaForCausalLM, count: int) -> None:
    wanted = torch.randperm(IDS.numel(), generator=torch.Generator().manual_seed(count))[:count]
    whole = llama.base_model(input_ids=IDS, use_cache=False).last_hidden_state.flatten(0, 1)
    found, rows = rows_seen(llama, wanted)
    assert torch.equal(found[wanted], whole[wanted])
    assert 16 <= rows < IDS.numel()


def test_where_most_rows_are_wanted_all_are_computed(llama: LlamaForCausalLM) -> None:
    for wanted in (torch.arange(100), torch.arange(0)):
        assert rows_seen(llama, wanted)[1] == IDS.numel()


def test_the_block_is_whole_again_after_an_error(llama: LlamaForCausalLM) -> None:
    with pytest.raises(RuntimeError, match="broken"), feed_forward_at(llama, torch.arange(3)):
        raise RuntimeError("broken")
    assert "forward" not in vars(llama.model.layers[-1].mlp)


def test_models_of_another_kind_run_as_ever() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2)).eval()
    with torch.no_grad():
        whole = model.base_model(input_ids=IDS).last_hidden_state
        with feed_forward_at(model, torch.arange(3)):
            assert torch.equal(model.base_model(input_ids=IDS).last_hidden_state, whole)
    assert isinstance(model, nn.Module)
