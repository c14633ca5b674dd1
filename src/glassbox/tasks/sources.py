"""Where each task's samples come from: one dispatch over the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from glassbox.config.settings import SPLITS, ModelSettings, PrepareSettings, Settings, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import files, hub, text
from glassbox.tasks.chat import ChatTemplate
from glassbox.tasks.pools import Drawn, Pool, draw, requests
from glassbox.tasks.rows import Render, no_template
from glassbox.tasks.sample import Sample


def load_samples(
    prepare: PrepareSettings, note: Callable[[Drawn], None] | None = None, teacher: ModelSettings | None = None
) -> dict[str, list[Sample]]:
    """The samples of every split, all tasks in the order of the settings; no question is in two splits.

    `note` receives what each draw offered, dropped and took. Conversations (`messages`) are put by the chat template
    of `teacher`.
    """
    render = no_template if teacher is None else ChatTemplate(teacher)
    wanted = []
    for task, settings in prepare.tasks.items():
        own = text_pools(task, settings, prepare, teacher) if settings.text else _pools(task, settings, prepare, render)
        wanted += requests(task, own, settings)
    return draw(wanted, prepare.seed, note)


def text_pools(
    task: str, settings: TaskSettings, prepare: PrepareSettings, teacher: ModelSettings | None
) -> dict[str, Pool]:
    """Blocks of running text: of files or a data set, or of the embedded chronicle."""
    if settings.source == "text":
        return text.pools(task, settings, teacher, prepare.hub)
    from glassbox.tasks.miniature import chronicle

    assert settings.text is not None
    return chronicle.pools(task, settings, text.Cutter(settings.text, teacher), prepare.seed)


def _pools(task: str, settings: TaskSettings, prepare: PrepareSettings, render: Render) -> dict[str, Pool]:
    if settings.source == "hub":
        return hub.pools(task, settings, prepare.hub, render)
    if settings.source == "embedded":
        from glassbox.tasks.miniature import generators as embedded

        generated = embedded.load(task, settings, prepare.seed)
        return {split: Pool(f"the embedded {task} {split} generator", tuple(generated[split])) for split in SPLITS}
    return files.pools(task, settings, render)


def refuse_missing_labels(settings: Settings, splits: Mapping[str, Sequence[Sample]]) -> None:
    """Raise GlassboxError where a selected group learns from the data's labels and training samples have none."""
    bare = sorted({sample.task for sample in splits["train"] if not sample.answer})
    groups = [
        name
        for name in settings.groups
        if settings.distill[name].labels == "data" and "task" in settings.distill[name].active
    ]
    if bare and groups:
        raise GlassboxError(
            f"Training samples of {', '.join(bare)} are prompts without an answer, and {', '.join(groups)} learn from "
            "answers. Choose groups that do not: `-S distill=seqkd` (the teacher's own answers), or a file in "
            "conf/distill with signals and no `task`."
        )
