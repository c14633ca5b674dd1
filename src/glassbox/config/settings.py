"""params.yaml -> frozen, validated settings.

Imports neither torch nor mlflow: a bad setting must be refused in under two seconds. Every section is a pydantic model
that forbids unknown keys; what ties one setting to another is in config_rules.py; `load_settings` collects all errors
at once and turns each into a sentence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from glassbox.config.components import COMPONENTS, SIGNALS, needs
from glassbox.config.curves import TemperatureCurve, WeightCurve, highest
from glassbox.config.problems import Problem, problem_of
from glassbox.config.rules import broken_rules
from glassbox.config.yaml_files import read_yaml
from glassbox.errors import GlassboxError

SPLITS = ("train", "validation", "test")

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Part = Annotated[float, Field(gt=0.0, le=1.0)]
Reach = Literal["answer", "all"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
if TYPE_CHECKING:
    ComponentName = SignalName = str
else:
    ComponentName, SignalName = Literal[tuple(COMPONENTS)], Literal[SIGNALS]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class ModelSettings(Section):
    """A causal language model: a hub id or a folder in the same layout.

    `revision` pins the hub's commit. `dtype: auto` is bfloat16 (float16 where the GPU lacks it), and float32 on a CPU.
    """

    model: str
    revision: str | None = None
    tokenizer: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    initialisation: Literal["pretrained", "random"] = "pretrained"
    trust_remote_code: bool = False


def _by_component(annotation: Any, default: Any) -> type[Section]:
    """A section with one key for every component."""
    fields: dict[str, Any] = dict.fromkeys(COMPONENTS, (annotation, default))
    return create_model("ByComponent", __base__=Section, **fields)


class Weights(_by_component(WeightCurve, 0.0)):
    """What each component counts, as a number or as a curve over progress; 0 where it is not named."""

    @property
    def components(self) -> dict[str, float | str]:
        """Every component's weight, those of 0 included."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def active(self) -> dict[str, float | str]:
        """The components that ever count."""
        return {name: weight for name, weight in self.components.items() if highest(weight) > 0}

    def needs(self, what: str) -> set[str]:
        """All that the active components have in a field of the table: "reads", "files" or "asks"."""
        return needs(self.active, what)


class Group(Weights):
    """A group's objective.

    `labels: teacher`: the teacher's own answers (stage `answers`) instead of the tasks', and beside the tasks' where
    not all samples are labelled. `shuffled`: the components that read their signal off another sample, as a control;
    `shuffled_share` is the share of the samples that do. `experts`: which of a mixture's experts speak
    (docs/methods.md). `labelled`, `positions` and `temperature` replace train.labelled, entries of objective.positions
    and objective.temperature. `replica`: the same group with other random numbers for projector and dropout.
    """

    labels: Literal["data", "teacher"] = "data"
    experts: Literal["all", "sampled", "router", "other_router"] | None = None
    shuffled: tuple[SignalName, ...] = ()
    shuffled_share: Part = 1.0
    labelled: Part | None = None
    positions: dict[ComponentName, Reach] = Field(default_factory=dict)
    temperature: TemperatureCurve | None = None
    replica: Annotated[int, Field(ge=0)] = 0

    @property
    def uses_signals(self) -> bool:
        """Whether it compares teacher and student token by token."""
        return any(name in self.active for name in SIGNALS)


class TaskFiles(Section):
    train: str
    validation: str
    test: str


class TaskFields(Section):
    """Which columns make a sample, for rows with other keys than ours: a column's name, or a text with {column} in it.

    A dot leads into a column of objects (`choices.text`). `choices` is a column with a list, or a list of such texts;
    `answer` may then be the answer's text, its place from 0, its letter, or one of the `labels`.
    """

    prompt: str | None = None
    messages: str | None = None
    answer: str | None = None
    choices: str | tuple[str, ...] | None = None
    labels: str | None = None
    cluster: str | None = None


class DataSet(Section):
    """A data set of the hub by name and configuration (null: the only one), and which split serves each of ours."""

    name: str
    configuration: str | None = None
    splits: TaskFiles


class TextSettings(Section):
    """How running text is cut: blocks of `block_size` tokens of the teacher's tokenizer, context included.

    `stride` (null: blocks do not overlap) is how many tokens apart the blocks of validation and test begin; a block
    then scores what no earlier one has scored. `column` is that of a data set's text.
    """

    block_size: Annotated[int, Field(ge=2)]
    stride: PositiveInt | None = None
    column: str = "text"


class TaskSettings(Section):
    """Where a task's samples come from, and how many of each split are used (null: all).

    Of a hub source: `revision` pins the commit, and `dataset` names one that is not known by the task's name. `fields`
    says which columns of its rows, or of a JSONL file's, make a sample. `text` is there for running text, whose samples
    are blocks: source `text` reads files or a data set, and the embedded task `chronicle` is such text.
    """

    source: Literal["embedded", "sst2_tsv", "mmlu_csv", "gsm8k_jsonl", "jsonl", "hub", "text"]
    dataset: DataSet | None = None
    fields: TaskFields | None = None
    revision: str | None = None
    files: TaskFiles | None = None
    text: TextSettings | None = None
    train: PositiveInt | None = None
    validation: PositiveInt | None = None
    test: PositiveInt | None = None

    @property
    def of_the_hub(self) -> bool:
        """Whether its texts are a data set of the hub."""
        return self.source == "hub" or self.dataset is not None


class PrepareSettings(Section):
    """Which tasks there are. A change of anything in `folder` prepares them anew (DVC watches it).

    `hub` is null for the hub itself, or a folder that holds its data sets as <owner>/<name>, laid out as there.
    """

    seed: int
    folder: str
    hub: str | None
    tasks: dict[Name, TaskSettings] = Field(min_length=1)


class AnswersSettings(Section):
    """How the teacher answers the training prompts of groups with `labels: teacher`; others never ask it.

    `sampled` draws every token of a generated answer at `temperature`, from `seed`; the answer to a multiple-choice
    question is the teacher's best choice in either mode.
    """

    mode: Literal["greedy", "sampled"]
    temperature: PositiveFloat
    seed: int = Field(ge=0)
    batch_size: PositiveInt
    max_new_tokens: PositiveInt


class CapturedPositions(Section):
    """Where the teacher's signals are stored; logits are stored with the hidden states that they are formed from."""

    hidden: Reach
    attention: Reach


class SnapshotSettings(Section):
    """`layers`: the teacher's layers, counted from 1, whose states are stored where a group reads them (null: those of
    the layer map). `relations_layer`: the one whose queries, keys and values are (null: the last). `experts: last`
    stores what each expert of the teacher's last layer says at answer positions: of the `experts_kept` most probable
    ones, or of all (null).
    """

    max_length: PositiveInt
    overflow: Literal["truncate", "refuse"]
    positions: CapturedPositions
    top_k: PositiveInt
    temperatures: tuple[PositiveFloat, ...] = Field(min_length=1)
    hidden_dtype: Literal["float16", "bfloat16"]
    experts: Literal["none", "last"]
    experts_kept: PositiveInt | None
    experts_dtype: Literal["float16", "bfloat16", "float32"]
    attention_codec: Literal["sqrt_uint8", "float16"]
    batch_size: PositiveInt
    part_megabytes: PositiveInt
    audit_positions: PositiveInt
    layers: tuple[PositiveInt, ...] | None
    relations_layer: PositiveInt | None
    processes: PositiveInt


class VerifySettings(Section):
    recaptured_samples: int = Field(ge=0)


class Positions(_by_component(Reach, "answer")):
    """Where each component counts: at the positions that predict the answer, or at `all` that predict a token.

    Padding predicts nothing, and neither does a sample's last token.
    """


class ExpertsSettings(Section):
    """How groups mix the teacher's experts (docs/methods.md).

    `mass`: the weights add up to 1, or to what the model's own weights add up to. `sampled_share` and `passes` are KA's
    lambda and M. The others are the router's: its learning rate follows the student's schedule, `router_balance` weighs
    the load balance, and it stops once the mixture's accuracy has fallen by `stop_below` points of 100.
    """

    mass: Literal["one", "model"]
    sampled_share: Annotated[float, Field(ge=0.0, le=1.0)]
    passes: PositiveInt
    router_rate: PositiveFloat
    router_balance: float = Field(ge=0.0)
    router_clip: PositiveFloat
    stop_below: float = Field(ge=0.0)


class ObjectiveSettings(Section):
    """`balance: magnitude` scales every signal to the task loss, step by step, before its weight.

    `layer_map`: pairs of a student's and a teacher's layer, counted from 1 (null: uniform). `relation_heads` (null: as
    many as fit both models). `negatives` of other samples and `contrastive_temperature` belong to `contrastive`.
    """

    positions: Positions

    temperature: TemperatureCurve
    temperature_squared: bool
    reduction: Literal["sample", "position"]
    logits_target: Literal["dense", "topk"]
    hidden_loss: Literal["mse", "cosine"]
    attention_loss: Literal["mse", "kl"]
    heads: Literal["match", "strict"]
    balance: Literal["none", "magnitude"]
    layer_map: tuple[tuple[PositiveInt, PositiveInt], ...] | None
    relation_heads: PositiveInt | None
    negatives: PositiveInt
    contrastive_temperature: PositiveFloat
    experts: ExpertsSettings


class EarlyStopping(Section):
    patience: PositiveInt
    minimum_improvement: float = Field(0.0, ge=0.0)


class TrainSettings(Section):
    """`parallelism` names a file of conf/accelerate, which says how `processes` share a trial.

    `samples`: how many of each task a seed draws from those that are prepared (null: all of them). `labelled`: the
    share of these that have labels, by a rank that each seed draws; every step then holds `labelled_per_step` of them.
    `dropout` (null: the student's own) is that of every layer that has one.
    """

    epochs: PositiveInt
    max_steps: PositiveInt | None
    batch_size: PositiveInt
    micro_batch_size: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: float = Field(ge=0.0)
    schedule: Literal["linear", "cosine", "constant"]
    warmup: Share
    clip_norm: PositiveFloat
    precision: Literal["auto", "no", "bf16", "fp16"]
    gradient_checkpointing: bool
    processes: PositiveInt
    parallelism: Name
    threads: PositiveInt
    logging_interval: PositiveInt
    liveness_steps: int = Field(ge=0)
    early_stopping: EarlyStopping | None
    samples: PositiveInt | None
    labelled: Part
    labelled_per_step: PositiveInt | None
    dropout: Share | None


class EvaluationSettings(Section):
    """`teacher_shots` training samples stand before each test prompt of the teacher, and of no student."""

    batch_size: PositiveInt
    max_new_tokens: PositiveInt
    teacher_shots: int = Field(ge=0)


class StorageSettings(Section):
    """Folders that may lie on another drive (null: under the repository's root), and what is kept."""

    cache: str | None
    scratch: str | None
    artifacts: str | None
    remote: str | None
    keep_students: Literal["all", "one_per_group", "none"]


class EngineSettings(Section):
    """Who runs the trials of groups x seeds: workers on this machine, or tasks of a Ray cluster (docs/engines.md).

    `cpus` and `gpus` count for one trial. `silence_seconds`: a worker silent for so long is replaced.
    """

    kind: Literal["local", "ray"]
    workers: PositiveInt | None
    cpus: PositiveInt | None
    gpus: float | None = Field(ge=0.0)
    retries: int = Field(ge=0)
    silence_seconds: PositiveInt
    kept_gigabytes: float = Field(ge=0.0)
    address: str | None


class ControlCandidate(Section):
    learning_rate: PositiveFloat
    epochs: PositiveInt


class TuningSettings(Section):
    """What src/tune.py tries, as many candidates of every kind, and what it chose.

    `key` names the table of docs/tuning whose choice the weights are (null: they were not tuned). `matched_logits` is
    the weight at which logits alone have the share of the gradient of all signals of `combined`. `seeds`, and the items
    that `items_seed` draws, `validation` of each task, are used by no study.
    """

    key: str | None
    matched_logits: PositiveFloat
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    items_seed: int
    validation: PositiveInt
    logits: tuple[PositiveFloat, ...] = Field(min_length=1)
    hidden: tuple[PositiveFloat, ...] = Field(min_length=1)
    attention: tuple[PositiveFloat, ...] = Field(min_length=1)
    control: tuple[ControlCandidate, ...] = Field(min_length=1)


class PretrainMixture(Section):
    """The share of every kind of sample in pretraining."""

    sst2: PositiveFloat
    mmlu: PositiveFloat
    gsm8k: PositiveFloat
    statement: PositiveFloat


class PretrainedExperts(Section):
    """A mixture of experts in place of every feed-forward block, `chosen` of `count` for each token.

    It begins with the weights of a dense model of the same shape, `made_from`.
    """

    count: PositiveInt
    chosen: PositiveInt
    made_from: str


class PretrainedModelSettings(Section):
    """One of the embedded models: a Llama, or a Mixtral where it has experts, and how long it is pretrained.

    `feed_forward` is the inner width of a block, or of each expert.
    """

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    key_value_heads: PositiveInt
    feed_forward: PositiveInt
    steps: PositiveInt
    learning_rate: PositiveFloat
    decay: Share
    samples_seed: int
    mixture: PretrainMixture
    experts: PretrainedExperts | None


class PretrainedTextSettings(Section):
    """The embedded teacher of running text: another embedded model, trained on with blocks of the chronicle."""

    made_from: str
    block_size: Annotated[int, Field(ge=2)]
    batch_size: PositiveInt
    steps: PositiveInt
    learning_rate: PositiveFloat
    decay: Share
    samples_seed: int


class PretrainSettings(Section):
    """How data/embedded was made; a frozen stage, rerun only on purpose."""

    vocabulary: PositiveInt
    batch_size: PositiveInt
    teacher: PretrainedModelSettings
    student: PretrainedModelSettings
    text_teacher: PretrainedTextSettings
    moe_teacher: PretrainedModelSettings


class Settings(Section):
    scale: Name
    groups: tuple[Name, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    weights: Weights
    distill: dict[Name, Group]
    teacher: ModelSettings
    student: ModelSettings
    prepare: PrepareSettings
    answers: AnswersSettings
    snapshot: SnapshotSettings
    verify: VerifySettings
    objective: ObjectiveSettings
    train: TrainSettings
    evaluation: EvaluationSettings
    storage: StorageSettings
    engine: EngineSettings
    tuning: TuningSettings
    pretrain: PretrainSettings

    def labelled(self, group: str) -> float:
        """The share of samples that have labels in this group's trials."""
        own = self.distill[group].labelled
        return self.train.labelled if own is None else own

    def positions(self, group: str) -> dict[str, str]:
        """Where each component of this group counts."""
        return {**self.objective.positions.model_dump(), **self.distill[group].positions}

    def temperature(self, group: str) -> float | str:
        """The temperature of this group's logits, a number or a curve."""
        own = self.distill[group].temperature
        return self.objective.temperature if own is None else own

    def reads_answers(self, group: str) -> bool:
        """Whether this group's trials read the teacher's own answers: as labels, or as the texts without labels."""
        own = self.distill[group]
        return own.labels == "teacher" or (own.uses_signals and self.labelled(group) < 1)

    @property
    def signals_read(self) -> set[str]:
        """The signals of the snapshot that the selected groups read."""
        return {signal for name in self.groups for signal in self.distill[name].needs("reads")}

    @property
    def captures_answers(self) -> bool:
        """Whether the teacher's signals are wanted of its own answers too.

        Where the study's share is under 1 they are whichever groups are selected, so that one snapshot serves them all.
        """
        few = (self.distill[name].uses_signals and self.labelled(name) < 1 for name in self.groups)
        return self.train.labelled < 1 or any(few)

    @model_validator(mode="after")
    def rules_hold(self) -> Settings:
        problems = list(broken_rules(self.model_dump()))
        if problems:
            text = "; ".join(problem.sentence() for problem in problems)
            raise PydanticCustomError("broken_rules", "{text}", {"text": text, "problems": problems})
        return self


def load_settings(path: str | Path = "params.yaml") -> Settings:
    """Read and check the settings. Raises GlassboxError with every fault at once, one sentence each."""
    values, problems = read_yaml(path)
    try:
        settings = Settings.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = [*problems, *_problems(error.errors(include_url=False), values)]
    if problems:
        raise GlassboxError(refusal(path, problems))
    return settings


def _problems(errors: list[ErrorDetails], values: dict[str, Any]) -> list[Problem]:
    """Faults of single settings, then the rules that the faultless rest breaks."""
    broken = [
        problem for error in errors if error["type"] == "broken_rules" for problem in error.get("ctx", {})["problems"]
    ]
    single = [error for error in errors if error["type"] != "broken_rules"]
    if not single:
        return broken
    faultless = json.loads(json.dumps(values, default=str))
    for error in single:
        _take_out(faultless, [part for part in error["loc"] if part != "[key]"])
    return [problem_of(error, Settings) for error in single] + list(broken_rules(faultless))


def _take_out(tree: Any, location: list[str | int]) -> None:
    """Remove the value at a location from a nested mapping, together with the list that holds it."""
    for part in location[:-1]:
        inner = tree.get(part)
        if not isinstance(inner, dict):
            tree.pop(part, None)
            return
        tree = inner
    tree.pop(location[-1], None)


def refusal(path: str | Path, problems: list[Problem]) -> str:
    """What is said of a settings file that cannot be used."""
    count = "1 setting" if len(problems) == 1 else f"{len(problems)} settings"
    lines = [f"{path} is refused for {count}; nothing was run, and no output was removed.", ""]
    lines += [f"- {problem.sentence()}" for problem in problems]
    lines += ["", "If a `dvc exp run` wrote them, `git restore params.yaml` brings the last settings back."]
    return "\n".join(lines)
