"""Conversations as the teacher's own chat template puts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.tasks.rows import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ANSWER = "Glassbox"


class ChatTemplate:
    """Renders conversations; the tokenizer is opened when the first one comes."""

    def __init__(self, model: ModelSettings) -> None:
        self._model = model

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        from glassbox.models.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(self._model)
        if not tokenizer.chat_template:
            source = self._model.tokenizer or self._model.model
            raise GlassboxError(
                f"The tokenizer '{source}' has no chat template, so `messages` cannot be put as this teacher reads "
                "them. Write `prompt` and `answer` in place of `messages`, or choose a teacher whose tokenizer has one "
                "(an instruction-tuned model; `-S teacher.tokenizer=...` names another tokenizer of the same pieces)."
            )
        return tokenizer

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> Chat:
        """The prompt up to the assistant's turn. Raises ValueError with the reason where the template refuses."""
        self._refuse_special_pieces(messages)
        prompt = self._rendered(messages, add_generation_prompt=True)
        try:
            whole = self._rendered([*messages, {"role": "assistant", "content": ANSWER}], add_generation_prompt=False)
        except ValueError:
            return Chat(prompt, "")
        before = whole.rpartition(ANSWER)[0]
        lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
        return Chat(prompt, lead if lead.isspace() else "")

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        conversation: Any = [dict(message) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the teacher's chat template refuses these messages ({error})") from error
        return str(text)

    def _refuse_special_pieces(self, messages: Sequence[Mapping[str, str]]) -> None:
        special = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        for message in messages:
            spelt = next((piece for piece in special if piece in message["content"]), None)
            if spelt:
                raise ValueError(
                    f"a message spells the special piece {spelt}, which the chat template's own could not be told from"
                )
