"""Write conf/scale/NAME.yaml for your own data and models, and print the commands that follow.

FILE is JSONL, from which the three splits are drawn; FOLDER holds train.jsonl, validation.jsonl and test.jsonl. Every
line is read and counted, and lengths are taken from it (docs/own_data.md shows a line of each kind).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from glassbox.command import run
from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.errors import GlassboxError

SCALES = Path("conf/scale")
EMBEDDED = {role: f"data/embedded/{role}" for role in ("teacher", "student")}
TEMPLATE = """\
# @package _global_
# Select with: dvc exp run -S scale={name} (written by src/new_study.py; docs/own_data.md explains each line)
scale: {name}
teacher:
  model: {teacher}
  revision: null
  tokenizer: null
  dtype: auto
  initialisation: pretrained
  trust_remote_code: false
student:
  model: {student}
  revision: null
  tokenizer: null
  dtype: float32
  initialisation: pretrained
  trust_remote_code: false
prepare:
  seed: 0
  folder: {watched} # where the data lies
  hub: null
  tasks:
    {name}:
      source: jsonl
      dataset: null
      fields: null
      revision: null
      files: {{train: {train}, validation: {validation}, test: {test}}}
      text: null
      train: {n_train}
      validation: {n_validation}
      test: {n_test}
snapshot:
  max_length: {max_length}
train:
  epochs: 3
  batch_size: 8
  micro_batch_size: 4
  learning_rate: 1.0e-4
  threads: 1
evaluation:
  batch_size: 32
  max_new_tokens: {max_new_tokens}
"""
EXAMPLE = {
    "name": "mine",
    **EMBEDDED,
    "watched": "data/mine",
    **{split: f"data/mine/{split}.jsonl" for split in SPLITS},
    **{f"n_{split}": "null" for split in SPLITS},
    "max_length": "256",
    "max_new_tokens": "128",
}


def files_of(data: Path) -> dict[str, Path]:
    """The file of every split. Raises GlassboxError where there is none."""
    if data.is_file():
        return dict.fromkeys(SPLITS, data)
    if not data.is_dir():
        raise GlassboxError(f"--data names {data}, which does not exist here. Name a JSONL file, or a folder of them.")
    files = {split: data / f"{split}.jsonl" for split in SPLITS}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        held = ", ".join(sorted(path.name for path in data.iterdir())[:8]) or "nothing"
        raise GlassboxError(
            f"{data} lacks {', '.join(missing)} (it holds {held}). Name the files so, or name one JSONL file, from "
            "which all three splits are drawn."
        )
    return files


def counts_of(unique: int, one_file: bool) -> dict[str, str]:
    """Of one file a tenth validates and a fifth tests; of three files all is used."""
    if not one_file:
        return dict.fromkeys(SPLITS, "null")
    validation, test = max(1, unique // 10), max(1, unique // 5)
    if unique < 10:
        raise GlassboxError(f"The file holds {unique} different questions, and a study needs ten at the very least.")
    return {"train": str(unique - validation - test), "validation": str(validation), "test": str(test)}


def _as_written(path: str | Path) -> str:
    """In quotes: relative inside the repository, so that the file can be committed, and absolute outside of it."""
    place = Path(path).expanduser()
    if not place.exists():
        return str(path)
    place = place.resolve()
    inside = place.is_relative_to(Path.cwd().resolve())
    text = (place.relative_to(Path.cwd().resolve()) if inside else place).as_posix()
    return "'" + text.replace("'", "''") + "'"


def values_for(name: str, data: Path, models: dict[str, str]) -> dict[str, str]:
    """What TEMPLATE needs, from all samples as teacher and student read them."""
    from glassbox.config.settings import ModelSettings
    from glassbox.models.tokenizers import load_tokenizer
    from glassbox.tasks.chat import ChatTemplate
    from glassbox.tasks.files import pools
    from glassbox.tasks.pools import of_several_questions, question
    from glassbox.tasks.reading import readings

    files = files_of(data)
    paths = {split: str(path.resolve()) for split, path in files.items()}
    teacher = ModelSettings(model=models["teacher"])
    task = TaskSettings.model_validate({"source": "jsonl", "files": paths})
    offered = pools(name, task, ChatTemplate(teacher))
    notes = dict.fromkeys(note for pool in offered.values() for note in pool.notes)
    print("\n".join(f"WARNING: {note}" for note in notes), end="\n" if notes else "")
    one_file = len(set(paths.values())) == 1
    samples = {path: offered[split].samples for split, path in paths.items()}
    found = [
        reading
        for model in dict.fromkeys(models.values())
        for reading in readings(samples, load_tokenizer(ModelSettings(model=model)))
    ]
    several = of_several_questions(offered["train"].samples)
    counts = counts_of(len({question(sample, several) for sample in offered["train"].samples}), one_file)
    return {
        "name": name,
        **{role: _as_written(model) for role, model in models.items()},
        "watched": _as_written(data),
        **{split: _as_written(path) for split, path in files.items()},
        **{f"n_{split}": count for split, count in counts.items()},
        "max_length": str(_rounded(max(reading.tokens for reading in found))),
        "max_new_tokens": str(_rounded(max(reading.answer_tokens for reading in found) + 1)),
    }


def _rounded(tokens: int) -> int:
    """The next multiple of 16."""
    return -(-tokens // 16) * 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help="of the scale and of its task: letters, digits and underscores")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE_OR_FOLDER", help="JSONL, or a folder of it")
    for role, model in EMBEDDED.items():
        parser.add_argument(f"--{role}", default=model, help="a folder or a hub id (default: %(default)s)")
    arguments = parser.parse_args()
    name, path = arguments.name, SCALES / f"{arguments.name}.yaml"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise GlassboxError(f"'{name}' is no name: it begins with a letter and holds letters, digits and underscores.")
    if not SCALES.is_dir():
        raise GlassboxError(f"There is no {SCALES} here: run this in the repository's root.")
    if path.exists() and path.read_text(encoding="utf-8") != TEMPLATE.format(**EXAMPLE):
        raise GlassboxError(f"{path} exists and is not overwritten. Choose another NAME, or remove that file first.")
    text = TEMPLATE.format(**values_for(name, arguments.data, {role: getattr(arguments, role) for role in EMBEDDED}))
    path.write_text(text, encoding="utf-8", newline="\n")
    print(f"{path}: written. Look at it, then:")
    print(
        f"  python src/params.py scale={name}   # the settings; groups: 'distill=[sft,black_box]', seeds: 'seeds=[7,8]'"
    )
    print("  make plan                           # disk, memory and time, before anything runs")
    print("  make preflight                      # the whole path on two batches")
    print("  make study                          # the study, and its report in reports/report.html")


if __name__ == "__main__":
    run(main)
