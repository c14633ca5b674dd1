"""Running text as samples: files, folders or a hub data set, cut into blocks by the teacher's tokenizer.

WikiText's layout is read as it is: a file is one text, and its articles (` = Title = `) are clusters of related blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glassbox.config.settings import SPLITS, ModelSettings, TaskSettings, TextSettings
from glassbox.errors import GlassboxError
from glassbox.models.encoding import encode_sample, text_pieces
from glassbox.models.running import Block
from glassbox.tasks.files import locate
from glassbox.tasks.lines import text_lines, unreadable
from glassbox.tasks.pools import Pool
from glassbox.tasks.rows import UNASSIGNED
from glassbox.tasks.sample import Sample, make_sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")
TITLE = re.compile(r"^ ?= ([^=\n].*?[^=\n]|[^=\n]) = ?\n", re.MULTILINE)
AROUND = (0, 1, 2, 4, 8, 16, 32)  # tokens before and after a block that may be needed to cut it as the whole text is
NO_LIMIT = 2**31
WHOLE = frozenset({"train"})  # splits without a stride: no token is trained on twice


class Cutter:
    """Cuts texts into blocks; the teacher's tokenizer is opened when the first one comes."""

    def __init__(self, settings: TextSettings, teacher: ModelSettings | None) -> None:
        self.settings = settings
        self._teacher = teacher

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        from glassbox.models.tokenizers import load_tokenizer

        if self._teacher is None:
            raise GlassboxError("Running text is cut by the teacher's tokenizer, and no teacher is named.")
        return load_tokenizer(self._teacher)

    def samples(self, texts: Iterable[tuple[str, str]], split: str) -> Iterator[Sample]:
        """The blocks of named texts. A block's cluster is its article, or the name of its text."""
        stride = None if split in WHOLE else self.settings.stride
        for name, text in texts:
            titles = [(match.start(), match[1]) for match in TITLE.finditer(text)]
            for place, block in cut(self.tokenizer, text, self.settings.block_size, stride):
                article = next((title for start, title in reversed(titles) if start <= place), name)
                prompt, answer = block.as_sample()
                yield make_sample("", UNASSIGNED, prompt, answer, (), "", article)


def cut(
    tokenizer: PreTrainedTokenizerFast, text: str, size: int, stride: int | None = None
) -> Iterator[tuple[int, Block]]:
    """Blocks of at most `size` tokens, each with the place of its first scored character; every token is scored once.

    Without a stride blocks do not overlap, so that the first token of all but the first has nothing before it and is
    context only. With one they begin `stride` tokens apart and score what no earlier block has scored; the last reaches
    back to be as long as the others. A text begins with bos where the tokenizer has one. No block ends within a
    character: it is then a token or two shorter.
    """
    ids, spans = text_pieces(tokenizer, text)
    bos = int(tokenizer.bos_token_id is not None)  # places that bos takes in the block that begins the text
    first = known = 0  # the block's first token, and how many tokens have been scored
    begins = True
    while known < len(ids):
        room = size - bos if begins else size
        if stride is not None and not begins and 0 <= len(ids) - room < first:
            first = _whole(spans, len(ids) - room, 1)
        end = _whole(spans, min(first + room, len(ids)), -1)
        if end <= known:
            first = _whole(spans, first + 1, 1)
            if first >= known:
                told = f"A block of {size} tokens does not reach beyond one character."
                raise GlassboxError(f"{told} Raise text.block_size of its task.")
            continue
        if end - first + bos * begins > 1:
            place = spans[known - 1][1] if known else 0
            yield place, _block(tokenizer, text, ids, spans, (first, known, end), begins=begins)
        following = first + (stride or 0) - bos * begins
        known, begins = end, False
        first = known if stride is None else _whole(spans, min(following, known - 1), -1)


def _whole(spans: list[tuple[int, int]], place: int, step: int) -> int:
    """The token boundary next to `place`, in steps of -1 or 1, that is no place within a character."""
    while 0 < place < len(spans) and spans[place - 1][1] > spans[place][0]:
        place += step
    return place


def _block(
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    ids: list[int],
    spans: list[tuple[int, int]],
    places: tuple[int, int, int],
    *,
    begins: bool,
) -> Block:
    """The block of tokens [first, end), scored from `middle`, with as little around it as its tokens need."""
    first, middle, end = places
    ends = [0, *(stop for _, stop in spans)]
    plain = None
    for around in AROUND:
        before, after = ends[max(first - around, 0)], ends[min(end + around, len(spans))]
        for beginning in dict.fromkeys((before, before + text.startswith(" ", before) * (around > 0))):
            block = Block(
                text[beginning : ends[first]],
                text[ends[first] : ends[middle]],
                text[ends[middle] : ends[end]],
                text[ends[end] : after],
                begins,
            )
            plain = plain or block
            found = encode_sample(tokenizer, *block.as_sample(), max_length=NO_LIMIT, overflow="refuse").ids
            if found[len(found) - (end - first) :] == tuple(ids[first:end]) and len(found) - (end - first) <= 1:
                return block
    assert plain is not None
    return plain


def pools(task: str, settings: TaskSettings, teacher: ModelSettings | None, mirror: str | None) -> dict[str, Pool]:
    """One pool of blocks per split; splits that name the same text share one, and take its blocks one after another."""
    assert settings.text is not None  # config.rules sees to it
    cutter = Cutter(settings.text, teacher)
    read: dict[tuple[str, bool], Pool] = {}
    found = {}
    places = {split: _place(task, settings, split) for split in SPLITS}
    shared = [split for split in SPLITS if split not in WHOLE and places[split] == places["train"]]
    if settings.text.stride is not None and shared:
        raise GlassboxError(
            f"Task '{task}': train and {shared[0]} both read {places['train']}, and with a stride their blocks would "
            f"hold the same text. Give {shared[0]} a text of its own, or set prepare.tasks.{task}.text.stride to null."
        )
    for split, place in places.items():
        strided = split not in WHOLE and settings.text.stride is not None
        if (place, strided) not in read:
            texts, revision, commit = _texts(task, settings, split, mirror)
            samples = tuple(cutter.samples(texts, split))
            if not samples:
                raise GlassboxError(f"{place} holds no block of text. Correct prepare.tasks.{task}.")
            read[place, strided] = Pool(place, samples, revision, commit)
        found[split] = read[place, strided]
    return found


def _place(task: str, settings: TaskSettings, split: str) -> str:
    if settings.files:
        return str(locate(getattr(settings.files, split), f"prepare.tasks.{task}.files.{split}"))
    assert settings.dataset
    data = settings.dataset
    return "/".join(filter(None, (data.name, data.configuration, getattr(data.splits, split))))


def _texts(
    task: str, settings: TaskSettings, split: str, mirror: str | None
) -> tuple[list[tuple[str, str]], str | None, str | None]:
    """Name and content of every text of a split; of a data set also the revision asked for and its commit."""
    if settings.files:
        path = locate(getattr(settings.files, split), f"prepare.tasks.{task}.files.{split}")
        files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        return [(each.name if path.is_dir() else "", read_text(each)) for each in files], None, None
    from glassbox.tasks.hub import HubTask, load_rows

    assert settings.dataset and settings.text
    data = settings.dataset
    known = HubTask(data.name, data.configuration, data.splits.model_dump(), lambda row: row)  # type: ignore[arg-type, return-value]
    rows, commit = load_rows(task, known, getattr(data.splits, split), settings.revision, mirror)
    return [("", joined(rows, settings.text.column))], settings.revision, commit


def read_text(path: Path) -> str:
    """A UTF-8 file as it is, line ends as \\n. Raises GlassboxError for another encoding and for noncharacters."""
    lines = []
    for number, line in text_lines(path):
        if not line.isascii() and NONCHARACTERS.search(line):
            raise unreadable(path, number, "it holds a noncharacter (U+FDD0 to U+FDEF), which no text may hold")
        lines.append(line)
    return "".join(lines)


def joined(rows: Any, column: str) -> str:
    """The rows of a data set as one text, each on lines of its own. Raises GlassboxError for an unknown column."""
    if column not in rows.column_names:
        raise GlassboxError(
            f"The data set has no column `{column}`; there are {', '.join(rows.column_names)}. Set text.column of its "
            "task."
        )
    lines = (str(row or "") for row in rows[column])
    return NONCHARACTERS.sub("\N{REPLACEMENT CHARACTER}", "".join(x if x.endswith("\n") else f"{x}\n" for x in lines))
