"""Conversations are put by the teacher's own chat template, or refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sections
from miniatures import save_model_folder, tiny_tokenizer
from projects import shrunk_settings

from glassbox.config.settings import ModelSettings, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.models.encoding import encode_prompt, encode_sample
from glassbox.models.marks import RENDERED
from glassbox.tasks.chat import ChatTemplate
from glassbox.tasks.files import read_jsonl
from glassbox.tasks.sources import load_samples, refuse_missing_labels

MARKUP = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def teacher(folder: Path, template: str | None) -> ModelSettings:
    tokenizer = tiny_tokenizer(vocabulary=316)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    tokenizer.chat_template = template
    return ModelSettings(model=str(save_model_folder(folder / "teacher", tokenizer)))


def asked(content: str, *more: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}, *more]


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("template", "lead"), [(MARKUP, ""), (BRACKETS, " ")])
def test_a_conversation_is_read_as_the_model_itself_reads_it(tmp_path: Path, template: str, lead: str) -> None:
    model = teacher(tmp_path, template)
    render = ChatTemplate(model)
    answer = {"role": "assistant", "content": "7"}
    path = write(tmp_path / "chat.jsonl", {"messages": asked("3 + 4?", answer), "choices": ["7", "8"]})
    (found,) = read_jsonl(path, render)
    sample, tokenizer = found.sample, render._tokenizer
    own = tokenizer.apply_chat_template(asked("3 + 4?"), add_generation_prompt=True, return_dict=False)
    assert encode_prompt(tokenizer, sample.prompt) == own
    assert (sample.answer, sample.choices) == (f"{lead}7", (f"{lead}7", f"{lead}8"))
    encoded = encode_sample(tokenizer, sample.prompt, sample.answer, max_length=256, overflow="refuse")
    whole = tokenizer.apply_chat_template(asked("3 + 4?", answer), tokenize=False).partition("7")[0] + "7"
    assert list(encoded.ids[:-1]) == tokenizer(whole, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"messages": [{"role": "system", "content": "Be brief."}], "answer": "x"},
            "template refuses .*no system role",
        ),
        ({"messages": asked("<|end|> means what?"), "answer": "x"}, r"spells the special piece <\|end\|>"),
        ({"messages": asked("x", {"role": "assistant", "content": "y"}), "answer": "z"}, "gives a second one"),
        ({"messages": asked("x"), "answer": "x"}, "prompt and answer are the same text"),
        ({"messages": asked("x", {"role": "assistant", "content": " x"})}, "prompt and answer are the same text"),
        ({"messages": [{"role": "assistant", "content": "y"}]}, "nothing before it"),
        ({"messages": [{"role": "user"}], "answer": "y"}, "message 1 has no texts `role` and `content`"),
        ({"messages": "hello", "answer": "y"}, "`messages` is a list of objects"),
        ({"messages": asked("x"), "prompt": "x", "answer": "y"}, "it has `prompt` and `messages`"),
    ],
)
def test_a_conversation_that_cannot_be_put_names_its_line_and_why(tmp_path: Path, row: dict, why: str) -> None:
    with pytest.raises(GlassboxError, match=rf"chat\.jsonl, line 1: .*{why}"):
        list(read_jsonl(write(tmp_path / "chat.jsonl", row), ChatTemplate(teacher(tmp_path, MARKUP))))


def test_a_teacher_without_a_template_is_refused_with_what_to_write_instead(tmp_path: Path) -> None:
    path = write(tmp_path / "chat.jsonl", {"messages": asked("x"), "answer": "y"})
    with pytest.raises(GlassboxError, match="has no chat template.*Write `prompt` and `answer`"):
        list(read_jsonl(path, ChatTemplate(teacher(tmp_path, None))))


def test_conversations_reach_the_splits_under_the_mark_of_rendered_prompts(tmp_path: Path) -> None:
    rows = [{"messages": asked(f"{n}?"), "answer": "y"} for n in range(6)]
    path = str(write(tmp_path / "chat.jsonl", *rows))
    files = {"train": path, "validation": path, "test": path}
    task = TaskSettings.model_validate({"source": "jsonl", "files": files, "train": 2, "validation": 2, "test": 2})
    splits = load_samples(sections.prepare(tasks={"chat": task}), teacher=teacher(tmp_path, MARKUP))
    assert all(sample.prompt.startswith(f"{RENDERED}<|start|>user") for sample in splits["test"])


def test_groups_that_learn_from_labels_refuse_prompts_alone(tmp_path: Path) -> None:
    (sample,) = (found.sample for found in read_jsonl(write(tmp_path / "prompts.jsonl", {"prompt": "Tell me."})))
    settings = shrunk_settings(tmp_path)
    with pytest.raises(GlassboxError, match=r"prompts without an answer, and sft, .*distill=seqkd"):
        refuse_missing_labels(settings, {"train": [sample]})
    values = settings.model_dump(mode="json")
    values |= {"groups": ["seqkd"], "distill": {"seqkd": {"task": 1.0, "labels": "teacher"}}}
    refuse_missing_labels(type(settings).model_validate(values), {"train": [sample]})
