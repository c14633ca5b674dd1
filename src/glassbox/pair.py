"""Whether teacher and student cut text into the same tokens, and which groups may go on where they do not."""

from __future__ import annotations

from glassbox.config import Settings
from glassbox.errors import GlassboxError
from glassbox.models import load_tokenizer, tokenizer_differences


def tokens_are_shared(settings: Settings) -> bool:
    """Whether a position means the same text to teacher and student.

    Raises GlassboxError where it does not and a selected group compares them token by token.
    """
    differences = tokenizer_differences(load_tokenizer(settings.teacher), load_tokenizer(settings.student))
    group = next((name for name in settings.groups if settings.distill[name].uses_signals), None)
    if differences and group is not None:
        raise GlassboxError(
            f"Group '{group}' compares teacher and student token by token, but their tokenizers differ: "
            f"{'; '.join(differences)}. The same position would mean another text in each. The way for such a pair is "
            "`seqkd`, which trains the student on the teacher's answers as text: `dvc exp run -S "
            "'distill=[sft,seqkd]'` with the same teacher and student. Or choose a student with the teacher's "
            "tokenizer (`-S student.model=...`), or a teacher with the student's."
        )
    return not differences
