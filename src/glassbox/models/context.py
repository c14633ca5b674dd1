"""How many tokens teacher and student read at most, and what is said where samples may be longer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.models.loading import configuration_of


def context_of(configuration: Any) -> int | None:
    """Tokens that a model of this configuration reads at most; None where it names no limit."""
    return getattr(configuration.get_text_config(), "max_position_embeddings", None)


def refused_lengths(settings: Settings) -> Iterator[str]:
    """A sentence for each model whose context is shorter than samples may be."""
    for role in ("teacher", "student"):
        context = context_of(configuration_of(getattr(settings, role)))
        if context is not None and settings.snapshot.max_length > context:
            yield (
                f"snapshot.max_length is {settings.snapshot.max_length}, and the {role} reads at most {context} "
                f"tokens: `-S snapshot.max_length={context}`."
            )


def require_lengths(settings: Settings) -> None:
    """Raise GlassboxError where samples may be longer than teacher or student reads."""
    found = list(refused_lengths(settings))
    if found:
        raise GlassboxError(" ".join(found))
