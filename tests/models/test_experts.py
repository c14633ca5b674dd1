"""Finding the mixture in a live model's last layer: formed from its parts it is the layer itself, or it is refused."""

from __future__ import annotations

import pytest
import torch
from miniatures import tiny_llama
from mixtures import tiny_mixture
from torch import Tensor

from glassbox.models.experts import NoMixture, find_last_layer, read_experts, watching_experts
from glassbox.models.loading import head_logits
from glassbox.models.signals import packed_positions, position_signals

EXACT = {  # family: scale, whether weights are divided by their sum
    "olmoe": (1.0, False),
    "mixtral": (1.0, True),
    "qwen2_moe": (1.0, False),
    "qwen3_moe": (1.0, True),
    "granitemoe": (0.22, True),
    "deepseek_v2": (1.7, False),
    "gpt_oss": (1.0, True),
}


def formed(family: str, cells: torch.dtype, kept: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The last states formed from cells and those of the live model, and the logits of both, at the ends of texts of
    unlike lengths in one padded batch."""
    model = tiny_mixture(family)
    layer = find_last_layer(model)
    ids = torch.randint(3, 320, (3, 14), generator=torch.Generator().manual_seed(3))
    tokens, count = torch.tensor([14, 9, 11]), torch.tensor([4, 2, 5])
    mask = torch.arange(14) < tokens[:, None]
    with torch.no_grad(), watching_experts(layer) as seen:
        live = position_signals(model, ids, mask, tokens - count, count, want_attention=False).hidden
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
    sample, column = packed_positions(tokens - count, count)
    found = read_experts(layer, seen, sample * 14 + column, kept)
    weights = layer.mixture.own_weights(found.logits).gather(1, found.ids)
    own = layer.mixture.states(found.residual.to(cells), found.outputs.to(cells), weights)
    with torch.no_grad():
        return own, live, head_logits(model, own, 320), logits[sample, column]


@pytest.mark.parametrize("family", EXACT)
def test_the_last_layer_formed_from_its_parts_is_the_live_one(family: str) -> None:
    mixture = find_last_layer(tiny_mixture(family)).mixture
    assert (mixture.scale, mixture.normalised, mixture.chosen) == (*EXACT[family], 2)
    for cells, tolerance in ((torch.float32, 1e-5), (torch.float16, 2e-3)):
        for ours, theirs in zip(*[iter(formed(family, cells))] * 2, strict=True):
            error = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
            assert float(error.max()) <= tolerance, cells


def test_the_most_probable_experts_are_enough_for_the_models_own_mixture() -> None:
    own, live, *_ = formed("mixtral", torch.float32, kept=3)
    torch.testing.assert_close(own, live, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("deepseek_v3", "something else than a softmax of its logits"),
        ("flex_olmo", "does more with what they say"),
        ("jetmoe", "no module of it is called as the experts"),
    ],
)
def test_another_family_is_refused_by_what_it_does(family: str, why: str) -> None:
    with pytest.raises(NoMixture, match=why):
        find_last_layer(tiny_mixture(family))


def test_a_dense_model_with_a_gate_in_its_names_is_no_mixture() -> None:
    model = tiny_llama()
    assert any("gate" in name for name, _ in model.named_modules())
    with pytest.raises(NoMixture, match=r"returns no router logits.*snapshot\.experts"):
        find_last_layer(model)


def test_a_mixture_whose_last_layer_is_dense_is_refused() -> None:
    model = tiny_mixture("qwen3_moe", mlp_only_layers=[1])
    with pytest.raises(NoMixture, match="its last layer has no experts"):
        find_last_layer(model)
