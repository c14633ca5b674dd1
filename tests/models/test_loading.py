"""Loading models and tokenizers, comparing tokenizers, and reading signals at positions."""

import copy
import os
from pathlib import Path

import pytest
import torch
from miniatures import save_model_folder, tiny_llama, tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.models.loading import head_logits, load_model, model_digest, vocabulary_size
from glassbox.models.signals import ATTENTION_NAME, checkpoint_layers, position_signals
from glassbox.models.tokenizers import load_tokenizer, tokenizer_differences, tokenizer_fingerprint

LENGTHS, FIRST, COUNT = [9, 5, 12], [4, 1, 10], [4, 3, 1]


def padded_batch(side: str, filler: int = 0):
    """Three samples padded on one side, with the padded columns of their wanted positions."""
    generator = torch.Generator().manual_seed(1)
    longest = max(LENGTHS)
    ids = torch.full((3, longest), filler)
    mask = torch.zeros(3, longest, dtype=torch.bool)
    first = torch.tensor(FIRST)
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[row, place] = torch.randint(3, 320, (length,), generator=generator)
        mask[row, place] = True
        first[row] += 0 if side == "right" else longest - length
    return ids, mask, first, torch.tensor(COUNT)


def signals_of(model, side="right", filler=0):
    ids, mask, first, count = padded_batch(side, filler)
    return position_signals(model, ids, mask, first, count, want_attention=True)


def eager_signals(model, config_class=LlamaForCausalLM):
    """Last-layer maps, hidden states and logits of each sample alone under eager attention."""
    eager = config_class._from_config(copy.deepcopy(model.config), attn_implementation="eager")
    eager.load_state_dict(model.state_dict())
    eager.eval()
    ids, mask, first, count = padded_batch("right")
    maps, hidden, logits = [], [], []
    for row in range(3):
        alone = ids[row : row + 1, mask[row]]
        output = eager(input_ids=alone, output_attentions=True, output_hidden_states=True)
        wanted = slice(int(first[row]), int(first[row] + count[row]))
        rows = output.attentions[-1][0, :, wanted].transpose(0, 1)
        maps.append(torch.nn.functional.pad(rows, (0, ids.shape[1] - rows.shape[-1])))
        hidden.append(output.hidden_states[-1][0, wanted])
        logits.append(output.logits[0, wanted])
    return torch.cat(maps), torch.cat(hidden), torch.cat(logits)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_recorded_rows_are_the_eager_maps_of_each_sample_alone(side, key_heads):
    model = tiny_llama(key_heads=key_heads)
    with torch.no_grad():
        maps, hidden, logits = eager_signals(model)
        signals = signals_of(model, side)
        torch.testing.assert_close(signals.attention, maps, atol=2e-6, rtol=1e-4)
        torch.testing.assert_close(signals.hidden, hidden, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(head_logits(model, signals.hidden, 320), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(signals.attention.sum(-1), torch.ones(sum(COUNT), 4))


def test_gpt_2_is_read_by_the_same_call():
    model = tiny_gpt2()
    with torch.no_grad():
        maps, hidden, _ = eager_signals(model, GPT2LMHeadModel)
        for side in ("right", "left"):
            signals = signals_of(model, side)
            torch.testing.assert_close(signals.attention, maps, atol=2e-6, rtol=1e-4)
            torch.testing.assert_close(signals.hidden, hidden, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_signals_carry_gradients_that_padding_does_not_change(side):
    def gradient(padding_side, filler):
        model = tiny_llama()
        signals = signals_of(model, padding_side, filler)
        (signals.attention.square().sum() + signals.hidden.square().sum()).backward()
        return torch.cat([weight.grad.reshape(-1) for weight in model.parameters() if weight.grad is not None])

    reference = gradient("right", 0)
    assert torch.isfinite(reference).all() and reference.abs().max() > 0
    torch.testing.assert_close(gradient(side, 77), reference, atol=1e-3, rtol=1e-3)


def tiny_gpt2(**changes):
    shape = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(**shape | changes)
        return GPT2LMHeadModel._from_config(config, attn_implementation=ATTENTION_NAME).eval()


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("want_attention", [True, False])
def test_layers_computed_again_give_the_same_signals_and_gradients(make, want_attention):
    ids, mask, first, count = padded_batch("left")
    runs = []
    for again in (False, True):
        model = make().train()
        if again:
            checkpoint_layers(model)
        torch.manual_seed(5)
        signals = position_signals(model, ids, mask, first, count, want_attention=want_attention)
        loss = signals.hidden.square().sum()
        if signals.attention is not None:
            loss = loss + signals.attention.square().sum()
        loss.backward()
        runs.append([loss.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    for plain, recomputed in zip(*runs, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


def test_layers_computed_again_keep_less_for_the_gradient():
    def kept(again):
        model, sizes = tiny_llama(layers=4).train(), []
        if again:
            checkpoint_layers(model)

        def note(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            signals_of(model)
        return sum(sizes)

    assert kept(again=True) < 0.5 * kept(again=False)


def test_recorded_rows_are_float32_in_a_bfloat16_model():
    signals = signals_of(tiny_llama().to(torch.bfloat16))
    assert signals.attention.dtype == torch.float32
    assert signals.hidden.dtype == torch.bfloat16


def test_a_model_with_another_attention_function_is_an_error_not_a_zero():
    model = tiny_llama()
    model.set_attn_implementation("sdpa")
    with pytest.raises(GlassboxError, match="gives no attention map"):
        signals_of(model)


def test_no_positions_give_empty_signals():
    ids, mask, first, count = padded_batch("right")
    signals = position_signals(tiny_llama(), ids, mask, first, count * 0, want_attention=True)
    assert signals.hidden.shape == (0, 32) and signals.attention.shape == (0, 4, 12)


def test_generation_with_cache_and_left_padding_equals_plain_attention():
    model = tiny_llama()
    ids, mask, _, _ = padded_batch("left")
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    ours = model.generate(ids, **options)
    model.set_attn_implementation("sdpa")
    assert torch.equal(ours, model.generate(ids, **options))


def test_padded_rows_of_the_output_layer_are_cut_off():
    model = tiny_llama(vocabulary=384)
    assert vocabulary_size(tiny_tokenizer(), model) == 320
    assert head_logits(model, torch.zeros(2, 32), 320).shape == (2, 320)


def test_an_output_layer_that_is_too_small_is_refused():
    with pytest.raises(GlassboxError, match="has 300 rows"):
        head_logits(tiny_llama(vocabulary=300), torch.zeros(1, 32), 320)


def test_logits_stay_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head_logits(tiny_llama(), torch.zeros(1, 32, dtype=torch.bfloat16), 320).dtype == torch.float32


def test_a_model_folder_is_opened_and_a_random_start_depends_on_the_seed_alone(tmp_path):
    folder = save_model_folder(tmp_path / "model", tiny_tokenizer(), seed=3)
    pretrained = load_model(ModelSettings(model=str(folder)))
    assert model_digest(pretrained) == model_digest(tiny_llama(seed=3))
    random = ModelSettings(model=str(folder), initialisation="random")
    before = torch.random.get_rng_state()
    digests = [model_digest(load_model(random, seed=seed)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(before, torch.random.get_rng_state())
    assert model_digest(pretrained) == model_digest(pretrained.state_dict()) != digests[0]


def test_a_missing_weight_is_an_error_not_a_random_number(tmp_path):
    folder = save_model_folder(tmp_path / "model", tiny_tokenizer(), layers=1)
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'), "utf-8")
    with pytest.raises(GlassboxError, match="would be random numbers"):
        load_model(ModelSettings(model=str(folder)))


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GlassboxError, match="could not be opened from the folder"):
        load_model(ModelSettings(model=str(tmp_path)))
    with pytest.raises(GlassboxError, match="is no folder here"):
        load_tokenizer(ModelSettings(model="./nowhere/at/all"))


def test_equal_tokenizers_are_accepted_whatever_their_padding_and_template():
    first, second = tiny_tokenizer(), tiny_tokenizer()
    second.padding_side, second.model_max_length, second.chat_template = "left", 99, "{{ messages }}"
    second.pad_token = second.eos_token
    assert tokenizer_differences(first, second) == []


def test_a_token_added_for_padding_alone_makes_no_difference():
    first, second = tiny_tokenizer(pad=None), tiny_tokenizer(pad=None)
    second.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer_differences(first, second) == []
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(second)


def test_tokenizers_of_one_size_with_other_pieces_differ():
    first, second = tiny_tokenizer(), tiny_tokenizer(["zebra quilt zebra quilt vexing jumps over hazy lakes"] * 3, 320)
    assert any("ids name another piece" in difference for difference in tokenizer_differences(first, second))
    assert tokenizer_fingerprint(first) != tokenizer_fingerprint(second)


def test_equal_pieces_with_another_pre_tokenizer_differ():
    from tokenizers import pre_tokenizers

    first, second = tiny_tokenizer(), tiny_tokenizer()
    second.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert any("pre-tokenizer" in difference for difference in tokenizer_differences(first, second))


@pytest.fixture
def real_tokenizers() -> Path:
    root = os.environ.get("GLASSBOX_REAL_DATA")
    if not root or not (Path(root) / "tokenizers").is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    return Path(root) / "tokenizers"


@pytest.mark.real
def test_llama_2_and_mistral_differ_although_both_have_32000_pieces(real_tokenizers):
    llama = load_tokenizer(ModelSettings(model=str(real_tokenizers / "llama2")))
    mistral = load_tokenizer(ModelSettings(model=str(real_tokenizers / "mistral-7b-v0.1")))
    assert len(llama) == len(mistral) == 32000
    assert any("31730 of 32000 ids name another piece" in phrase for phrase in tokenizer_differences(llama, mistral))


@pytest.mark.real
def test_llama_2_as_tiny_llama_chat_configures_it_is_accepted(real_tokenizers):
    llama = load_tokenizer(ModelSettings(model=str(real_tokenizers / "llama2")))
    chat = load_tokenizer(ModelSettings(model=str(real_tokenizers / "llama2")))
    chat.pad_token, chat.padding_side, chat.model_max_length = "</s>", "right", 2048
    chat.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert tokenizer_differences(llama, chat) == []
    assert tokenizer_fingerprint(llama) == tokenizer_fingerprint(chat)
