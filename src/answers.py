"""Stage `answers`: the teacher's own answers to the training prompts -> data/answers.

They are the labels of groups with `labels: teacher`, and the texts of samples without labels (train.labelled under 1).
Without either the teacher is not asked.
"""

from __future__ import annotations

import argparse
import shutil

from glassbox.command import run
from glassbox.config.settings import load_settings
from glassbox.config.storage import ANSWERS_FOLDER, TASKS_FOLDER, scratch_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)
    asking = [name for name in settings.groups if settings.reads_answers(name)]

    from glassbox.snapshot.labels import write_data_labels, write_teacher_labels

    shutil.rmtree(ANSWERS_FOLDER, ignore_errors=True)
    if not asking and not settings.captures_answers:
        write_data_labels(ANSWERS_FOLDER)
        print(f"{ANSWERS_FOLDER}: no selected group reads the teacher's answers, so it was not asked")
        return

    import torch

    from glassbox.snapshot.answers import ask_teacher, refuse_the_datas_labels

    torch.set_num_threads(settings.train.threads)
    answers, facts = ask_teacher(settings, TASKS_FOLDER, scratch_folder(settings.storage))
    copying = [name for name in asking if settings.distill[name].labels == "teacher" and settings.labelled(name) == 1]
    if copying:
        refuse_the_datas_labels(facts["accuracy"], copying[0])
    write_teacher_labels(ANSWERS_FOLDER, answers, facts)
    print(f"{ANSWERS_FOLDER}: {len(answers)} answers of {settings.teacher.model}, {settings.answers.mode}")
    for task, found in facts["accuracy"]["tasks"].items():
        print(
            f"  {task}: {found['value']:.1%} of {found['n']} agree with the labels, {found['word_for_word']} word for "
            f"word; {found['cut_off']} cut off"
        )


if __name__ == "__main__":
    run(main)
