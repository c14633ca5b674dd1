"""Running text in blocks: tokens that follow each other in a text, some of them as context and the rest scored.

A block is a sample like any other, its context in `prompt` and what is scored in `answer`. Both hold, behind marks, the
text around the block that its tokens depend on, for a block may begin and end within a word.
"""

from __future__ import annotations

from typing import NamedTuple

from glassbox.models.marks import BEGINNING, CUT, RUNNING


class Block(NamedTuple):
    """The text of a block: `before` and `after` it are read so that its tokens are those of the whole text.

    `begins`: it is the first of its text, so that bos stands before it where the tokenizer has one.
    """

    before: str
    context: str
    scored: str
    after: str
    begins: bool

    @property
    def text(self) -> str:
        return f"{self.before}{self.context}{self.scored}{self.after}"

    def as_sample(self) -> tuple[str, str]:
        """Prompt and answer of the sample that it is."""
        beginning = BEGINNING if self.begins else ""
        return f"{RUNNING}{beginning}{self.before}{CUT}{self.context}", f"{self.scored}{CUT}{self.after}"


def is_running(prompt: str) -> bool:
    return prompt.startswith(RUNNING)


def block_of(prompt: str, answer: str) -> Block:
    """The block that a sample's prompt and answer hold."""
    before, _, context = prompt.removeprefix(RUNNING).partition(CUT)
    scored, _, after = answer.partition(CUT)
    return Block(before.removeprefix(BEGINNING), context, scored, after, before.startswith(BEGINNING))
