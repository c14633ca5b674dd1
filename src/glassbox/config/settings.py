"""params.yaml -> frozen, validated settings.

Imports neither torch nor mlflow: a bad setting must be refused in under two seconds. Every section is a pydantic model
that forbids unknown keys. The text under a key is what docs/settings.md and `python src/settings.py --list` say of it
(`make docs`). What ties one setting to another is in rules.py; `load_settings` collects all errors at once and turns
each into a sentence.
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
from glassbox.config.rules import broken_rules, equal_groups
from glassbox.config.yaml_files import read_yaml
from glassbox.errors import GlassboxError

SPLITS = ("train", "validation", "test")
WAY_BACK = "If a `dvc exp run` wrote them, `git restore params.yaml` brings the last settings back."

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Part = Annotated[float, Field(gt=0.0, le=1.0)]
Reach = Literal["answer", "all"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
if TYPE_CHECKING:
    ComponentName = SignalName = str
else:
    ComponentName, SignalName = Literal[tuple(COMPONENTS)], Literal[SIGNALS]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


class ModelSettings(Section):
    """A causal language model."""

    model: str
    """A folder in the hub's layout, or a hub id."""
    revision: str | None = None
    """The hub's commit; null: the newest, which may move."""
    tokenizer: str | None = None
    """Another folder or hub id whose tokenizer the model reads with; null: its own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Format of the weights; auto: bfloat16 on a GPU (float16 where it lacks that), float32 on a CPU."""
    initialisation: Literal["pretrained", "random"] = "pretrained"
    """random: the architecture of the model with new weights, drawn from each seed."""
    trust_remote_code: bool = False
    """Run code that the model's repository brings."""


def _by_component(annotation: Any, default: Any, what: str) -> type[Section]:
    """A section with one key for every component, described by `what` and the component's meaning."""
    fields: dict[str, Any] = {
        name: (annotation, Field(default, description=component.meaning and f"{what} {component.meaning}."))
        for name, component in COMPONENTS.items()
    }
    return create_model("ByComponent", __base__=Section, **fields)


class Weights(_by_component(WeightCurve, 0.0, "Weight of")):
    """What each component counts, as a number or as a curve over progress; 0 where it is not named."""

    @property
    def components(self) -> dict[str, float | str]:
        """Every component's weight, those of 0 included."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def active(self) -> dict[str, float | str]:
        """The components that ever count."""
        return {name: weight for name, weight in self.components.items() if highest(weight) > 0}

    @property
    def aligns(self) -> bool:
        """Whether teacher and student are compared chunk by chunk, so that they may cut text into other tokens."""
        return any(COMPONENTS[name].by_chunk for name in self.active)

    def needs(self, what: str) -> set[str]:
        """All that the active components have in a field of the table: "reads", "files" or "asks"."""
        return needs(self.active, what)


class Group(Weights):
    """A group's objective."""

    labels: Literal["data", "teacher"] = "data"
    """teacher: learn the teacher's own answers in place of the data's, or beside them where some samples have none."""
    experts: Literal["all", "sampled", "router", "other_router"] | None = None
    """Which experts of the teacher's last layer `mixture` mixes: all, KA's draws, or by a gate that learns from the
    student (from another sample's student, as a control)."""
    shuffled: tuple[SignalName, ...] = ()
    """Components that read their signal off another sample, as a control."""
    shuffled_share: Part = 1.0
    """Share of the samples whose shuffled components read another sample; the others read their own."""
    labelled: Part | None = None
    """In place of train.labelled, for this group alone; null: as there."""
    positions: dict[ComponentName, Reach] = Field(default_factory=dict)
    """In place of entries of objective.positions, for this group alone."""
    temperature: TemperatureCurve | None = None
    """In place of objective.temperature, for this group alone; null: as there."""
    learning_rate: PositiveFloat | None = None
    """In place of train.learning_rate, for this group alone; null: as there."""
    replica: Annotated[int, Field(ge=0)] = 0
    """Any number but 0: the same group with other random numbers for projector and dropout, as a control."""

    @property
    def uses_signals(self) -> bool:
        """Whether it compares teacher and student."""
        return any(name in self.active for name in SIGNALS)

    @property
    def needs_shared_tokens(self) -> bool:
        """Whether it compares them token by token."""
        return self.uses_signals and not self.aligns


class TaskFiles(Section):
    train: str
    """Of `files`: the file, or a folder of CSV files, with train samples; of `dataset`: a split's name."""
    validation: str
    """Of `files`: the file, or a folder of CSV files, with validation samples; of `dataset`: a split's name."""
    test: str
    """Of `files`: the file, or a folder of CSV files, with test samples; of `dataset`: a split's name."""


class TaskFields(Section):
    """Which columns make a sample, for rows with other keys than ours: a column's name, or a text with {column} in it.

    A dot leads into a column of objects (`choices.text`).
    """

    prompt: str | None = None
    """The column with the prompt, or a text with {column} in it."""
    messages: str | None = None
    """The column with a conversation, in place of `prompt`."""
    answer: str | None = None
    """The column with the answer: its text or, where there are choices, its place from 0, its letter or its label."""
    choices: str | tuple[str, ...] | None = None
    """The column with the list of choices, or a list of fixed ones."""
    labels: str | None = None
    """The column with the list of labels by which `answer` names a choice."""
    cluster: str | None = None
    """The column with the group of related questions, such as a subject."""


class DataSet(Section):
    """A data set of the hub."""

    name: str
    """The data set's name on the hub."""
    configuration: str | None = None
    """Its configuration; null: the only one."""
    splits: TaskFiles
    """Which of its splits serves each of ours."""


class TextSettings(Section):
    """How running text is cut into blocks."""

    block_size: Annotated[int, Field(ge=2)]
    """Tokens of a block in the teacher's tokenizer, context included."""
    stride: PositiveInt | None = None
    """Tokens from one block of validation and test to the next, which scores what is new; null: no overlap."""
    column: str = "text"
    """The column of a data set that holds the text."""


class TaskSettings(Section):
    """Where a task's samples come from, and how many of each split are used.

    `text` is there for running text, whose samples are blocks: source `text` reads files or a data set, and the
    embedded task `chronicle` is such text.
    """

    source: Literal["embedded", "sst2_tsv", "mmlu_csv", "gsm8k_jsonl", "jsonl", "hub", "text"]
    """embedded: a generator that ships; sst2_tsv, mmlu_csv, gsm8k_jsonl: local files as published; jsonl: local files
    with an object on each line; hub: a data set of the hub; text: running text of files or of a data set."""
    dataset: DataSet | None = None
    """A data set of the hub; null: the one known by the task's name."""
    fields: TaskFields | None = None
    """Which columns make a sample; null: they have our names."""
    revision: str | None = None
    """The commit of the data set; null: the newest, which may move."""
    files: TaskFiles | None = None
    """The local file of each split; relative paths start at the repository's root."""
    text: TextSettings | None = None
    """How running text is cut into blocks; null: the task is no running text."""
    train: PositiveInt | None = None
    """How many samples are used; null: all."""
    validation: PositiveInt | None = None
    """How many samples are used; null: all."""
    test: PositiveInt | None = None
    """How many samples are used; null: all."""

    @property
    def of_the_hub(self) -> bool:
        """Whether its texts are a data set of the hub."""
        return self.source == "hub" or self.dataset is not None


class PrepareSettings(Section):
    """Which tasks there are."""

    seed: int
    """Draws the samples of each split."""
    folder: str
    """A folder that DVC watches: when anything in it changes, samples are prepared anew."""
    hub: str | None
    """A folder that holds downloaded data sets as <owner>/<name>; null: the hub itself."""
    tasks: dict[Name, TaskSettings] = Field(min_length=1)
    """The tasks by name; a new name is a new task."""


class AnswersSettings(Section):
    """How the teacher answers training prompts; to a question with choices, by its best choice in either mode."""

    mode: Literal["greedy", "sampled"]
    """How the teacher writes an answer: the likeliest token each time, or drawn at answers.temperature."""
    temperature: PositiveFloat
    """Of sampled answers."""
    seed: int = Field(ge=0)
    """Draws sampled answers."""
    batch_size: PositiveInt
    """Prompts that the teacher answers at once."""
    max_new_tokens: PositiveInt
    """Where an answer of the teacher is cut off."""


class CapturedPositions(Section):
    """Where the teacher's signals are stored; logits are stored with the hidden states that they are formed from."""

    hidden: Reach
    """Where hidden states are stored, of which logits are formed."""
    attention: Reach
    """Where attention maps are stored; at all positions they need much disk."""


class SnapshotSettings(Section):
    max_length: PositiveInt
    """Tokens of a sample at most."""
    overflow: Literal["truncate", "refuse"]
    """What happens to a longer sample: its prompt loses its beginning, or the study is refused."""
    positions: CapturedPositions
    """Where signals are stored: answer, the positions that predict the answer; all, the prompt's too."""
    top_k: PositiveInt
    """How many of the largest log-probabilities are stored at each position, for objective.logits_target=topk."""
    temperatures: tuple[PositiveFloat, ...] = Field(min_length=1)
    """The temperatures at which these log-probabilities are stored."""
    hidden_dtype: Literal["float16", "bfloat16"]
    """Format of the stored hidden states."""
    experts: Literal["none", "last"]
    """last: store what each expert of a mixture-of-experts teacher's last layer says, at answer positions."""
    experts_kept: PositiveInt | None
    """How many experts are stored, the most probable ones; null: all."""
    experts_dtype: Literal["float16", "bfloat16", "float32"]
    """Format of what the experts say."""
    attention_codec: Literal["sqrt_uint8", "float16"]
    """Format of the stored attention maps: a byte for each entry's square root, or two bytes."""
    batch_size: PositiveInt
    """Samples that the teacher reads at once."""
    part_megabytes: PositiveInt
    """Size of one file of the snapshot."""
    audit_positions: PositiveInt
    """Positions at which the capture compares its stored logits to the teacher's own."""
    layers: tuple[PositiveInt, ...] | None
    """The teacher's layers, counted from 1, whose states are stored where a group reads them; null: the layer map's."""
    relations_layer: PositiveInt | None
    """The teacher's layer whose queries, keys and values are stored where a group reads them; null: the last."""
    processes: PositiveInt
    """Processes that share the capture, one for each GPU."""


class VerifySettings(Section):
    recaptured_samples: int = Field(ge=0)
    """How many samples the gate captures again and compares; 0: none."""


class Positions(_by_component(Reach, "answer", "Where to compute")):
    """Where each component counts: at the positions that predict the answer, or at `all` that predict a token.

    Padding predicts nothing, and neither does a sample's last token.
    """


class ExpertsSettings(Section):
    """How groups mix the teacher's experts (docs/methods.md)."""

    mass: Literal["one", "model"]
    """The weights add up to 1, or to what the model's own weights of its chosen experts add up to."""
    sampled_share: Annotated[float, Field(ge=0.0, le=1.0)]
    """Of `experts: sampled`, KA's lambda: the share of tokens whose experts are drawn by the gate."""
    passes: PositiveInt
    """Of `experts: sampled`, KA's M: draws for each token, whose losses are averaged."""
    router_rate: PositiveFloat
    """Learning rate of the router; it follows the student's schedule."""
    router_balance: float = Field(ge=0.0)
    """Weight of the load balance in the router's loss."""
    router_clip: PositiveFloat
    """Largest norm of the router's gradient."""
    stop_below: float = Field(ge=0.0)
    """The router stops once the accuracy of the mixture has fallen by so many points of 100."""


class ObjectiveSettings(Section):
    positions: Positions
    """Where each component counts."""
    temperature: TemperatureCurve
    """Divides the logits of teacher and student before they are compared."""
    temperature_squared: bool
    """Multiply the logits' loss by the temperature's square, which keeps its gradient's size."""
    reduction: Literal["sample", "position"]
    """sample: the mean over each sample's positions, then over samples; position: over all positions alike."""
    logits_target: Literal["dense", "topk"]
    """dense: the teacher's full distribution, formed from its hidden states; topk: its largest entries only."""
    hidden_loss: Literal["mse", "cosine"]
    """Distance between hidden states: squared error of standardised ones, or the cosine's."""
    attention_loss: Literal["mse", "kl"]
    """Distance between attention rows: squared error, or KL divergence."""
    heads: Literal["match", "strict"]
    """match: average neighbouring heads where the counts differ; strict: refuse such a pair."""
    balance: Literal["none", "magnitude"]
    """magnitude: scale each signal to the size of the task loss, step by step, before its weight."""
    layer_map: tuple[tuple[PositiveInt, PositiveInt], ...] | None
    """Pairs of a student's and a teacher's layer, counted from 1, for `layers`; null: spread evenly."""
    relation_heads: PositiveInt | None
    """Heads into which queries, keys and values are cut for `relations`; null: as many as fit both models."""
    negatives: PositiveInt
    """Hidden states of other samples that `contrastive` compares with, drawn at every step."""
    contrastive_temperature: PositiveFloat
    """Divides the similarities of `contrastive`."""
    experts: ExpertsSettings
    """How groups mix the teacher's experts."""
    alm_temperature: PositiveFloat
    """Divides the log-likelihoods of chunks for `alm`."""
    aligned_top_k: PositiveInt
    """The student's likeliest tokens that are roots beside the label, for `aligned_logits`."""


class EarlyStopping(Section):
    patience: PositiveInt
    """Epochs without a better task loss on validation samples after which a trial stops."""
    minimum_improvement: float = Field(0.0, ge=0.0)
    """By how much the loss must fall to count as better."""


class TrainSettings(Section):
    epochs: PositiveInt
    """Passes over the training samples."""
    max_steps: PositiveInt | None
    """Updates at most; null: as many as the epochs have."""
    batch_size: PositiveInt
    """Samples of one update."""
    micro_batch_size: PositiveInt
    """Samples that one process reads at once; changes memory and time, not what is learned."""
    learning_rate: PositiveFloat
    """AdamW's highest learning rate."""
    weight_decay: float = Field(ge=0.0)
    """AdamW's weight decay."""
    schedule: Literal["linear", "cosine", "constant"]
    """How the learning rate falls after the warm-up."""
    warmup: Share
    """Share of the updates in which the learning rate rises."""
    clip_norm: PositiveFloat
    """Largest norm of an update's gradient."""
    precision: Literal["auto", "no", "bf16", "fp16"]
    """Format of computing; auto: bf16 on a GPU, and from width 256 on a CPU that multiplies in it; else float32."""
    gradient_checkpointing: bool
    """Compute activations twice to need less memory."""
    processes: PositiveInt
    """Processes that share one trial, one for each GPU."""
    parallelism: Name
    """The file of conf/accelerate that says how they share it."""
    threads: PositiveInt
    """CPU threads of one process."""
    logging_interval: PositiveInt
    """Updates between two points of the curves."""
    liveness_steps: int = Field(ge=0)
    """First updates in which each component must be seen to move the student."""
    early_stopping: EarlyStopping | None
    """When a trial stops early; null: never."""
    samples: PositiveInt | None
    """How many samples of each task a seed draws from those prepared; null: all."""
    labelled: Part
    """Share of the samples that have labels; the others carry signals on the teacher's own answers."""
    labelled_per_step: PositiveInt | None
    """How many samples of an update have labels, where not all have."""
    dropout: Share | None
    """Of every layer that has one; null: as the student's configuration says."""


class EvaluationSettings(Section):
    batch_size: PositiveInt
    """Questions answered at once."""
    max_new_tokens: PositiveInt
    """Where a generated answer is cut off."""
    teacher_shots: int = Field(ge=0)
    """Training samples that stand before each test prompt of the teacher, and of no student."""


class StorageSettings(Section):
    """Folders that may lie on another drive (null: under the repository's root), and what is kept."""

    cache: str | None
    """The folder of DVC's cache, which must be the one that DVC uses; null: DVC's own."""
    scratch: str | None
    """Where checkpoints, logs and kept trials lie; null: .glassbox at the root."""
    artifacts: str | None
    """Where MLflow keeps files of runs; null: mlartifacts at the root."""
    remote: str | None
    """A DVC remote's name, folder or URL, to which `make archive` pushes; null: DVC's default one."""
    keep_students: Literal["all", "one_per_group", "none"]
    """Which trained students are kept under runs/."""


class EngineSettings(Section):
    """Who runs the trials of groups x seeds (docs/engines.md)."""

    kind: Literal["local", "ray"]
    """local: workers on this machine; ray: tasks of a Ray cluster."""
    workers: PositiveInt | None
    """Trials side by side; null: as many as cores or GPUs leave room for."""
    cpus: PositiveInt | None
    """Cores of one trial; null: train.threads for each of its processes."""
    gpus: float | None = Field(ge=0.0)
    """GPUs of one trial, or a part of one; null: one for each of its processes where there are GPUs."""
    retries: int = Field(ge=0)
    """How often a trial starts again after its worker was lost."""
    silence_seconds: PositiveInt
    """A worker that gives no sign of life for so long is replaced."""
    kept_gigabytes: float = Field(ge=0.0)
    """Size of the finished trials that are kept by key; the oldest go first."""
    address: str | None
    """Of a running Ray cluster, such as 127.0.0.1:6379; null: Ray starts on this machine."""


class ControlCandidate(Section):
    learning_rate: PositiveFloat
    """A learning rate of the control that is tried."""
    epochs: PositiveInt
    """Its number of epochs."""


class TuningSettings(Section):
    """What src/tune.py tries, as many candidates of every kind, and what it chose."""

    key: str | None
    """The table of docs/tuning whose choice the weights are; null: they were not tuned."""
    matched_logits: PositiveFloat
    """The weight at which logits alone have the share of the gradient of all signals of `combined`."""
    control_learning_rate: PositiveFloat | None
    """The learning rate at which the control did best, for `sft_tuned`; null: train.learning_rate."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Seeds of the tuning, which no study uses."""
    items_seed: int
    """Draws the items of the tuning, which no study uses."""
    validation: PositiveInt
    """Validation items of each task in the tuning."""
    logits: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Weights that are tried."""
    hidden: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Weights that are tried."""
    attention: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Weights that are tried."""
    control: tuple[ControlCandidate, ...] = Field(min_length=1)
    """Learning rates and epochs of the control that are tried, as many as weights."""


class PretrainMixture(Section):
    """The share of every kind of sample in pretraining."""

    sst2: PositiveFloat
    """Share of sst2 samples in pretraining."""
    mmlu: PositiveFloat
    """Share of mmlu samples in pretraining."""
    gsm8k: PositiveFloat
    """Share of gsm8k samples in pretraining."""
    statement: PositiveFloat
    """Share of plain statements of facts in pretraining."""


class PretrainedExperts(Section):
    """A mixture of experts in place of every feed-forward block."""

    count: PositiveInt
    """How many experts there are."""
    chosen: PositiveInt
    """How many of them each token goes through."""
    made_from: str
    """The embedded dense model of the same shape whose weights it begins with."""


class PretrainedModelSettings(Section):
    """One of the embedded models: a Llama, or a Mixtral where it has experts, and how long it is pretrained.

    `feed_forward` is the inner width of a block, or of each expert.
    """

    width: PositiveInt
    """Size of a hidden state."""
    layers: PositiveInt
    """Number of layers."""
    heads: PositiveInt
    """Attention heads of a layer."""
    key_value_heads: PositiveInt
    """Heads of keys and values."""
    feed_forward: PositiveInt
    """Inner size of the feed-forward part."""
    steps: PositiveInt
    """Updates of pretraining."""
    learning_rate: PositiveFloat
    """Highest learning rate of pretraining."""
    decay: Share
    """Share of the updates at the end in which the learning rate falls."""
    samples_seed: int
    """Draws the samples of pretraining."""
    mixture: PretrainMixture
    """Shares of the kinds of samples."""
    experts: PretrainedExperts | None
    """A mixture of experts in place of every feed-forward block; null: a dense model."""


class PretrainedTextSettings(Section):
    """The embedded teacher of running text: another embedded model, trained on with blocks of the chronicle."""

    made_from: str
    """The embedded model that it is trained on from."""
    block_size: Annotated[int, Field(ge=2)]
    """Tokens of a block."""
    batch_size: PositiveInt
    """Blocks of one update."""
    steps: PositiveInt
    """Updates of this training."""
    learning_rate: PositiveFloat
    """Highest learning rate of this training."""
    decay: Share
    """Share of the updates at the end in which the learning rate falls."""
    samples_seed: int
    """Draws the text of this training."""


class PretrainSettings(Section):
    """How data/embedded was made; a frozen stage, rerun only on purpose."""

    vocabulary: PositiveInt
    """Pieces of the tokenizer."""
    metaspace_vocabulary: PositiveInt
    """Pieces of the tokenizer of the student that cuts text into other tokens."""
    batch_size: PositiveInt
    """Samples of one update."""
    teacher: PretrainedModelSettings
    """The embedded teacher."""
    student: PretrainedModelSettings
    """The embedded student."""
    text_teacher: PretrainedTextSettings
    """The embedded teacher of running text."""
    moe_teacher: PretrainedModelSettings
    """The embedded mixture-of-experts teacher."""
    metaspace_student: PretrainedModelSettings
    """The embedded student that cuts text into other tokens."""


class Settings(Section):
    scale: Name
    """Name of the file of conf/scale that the settings come from; it picks the margins of conf/analysis.yaml."""
    groups: tuple[Name, ...] = Field(min_length=1)
    """The groups that run; composed from distill, never set by hand."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """The seeds of every group: data order, labels, initial student, dropout."""
    weights: Weights
    """What each component counts, for every group that uses it."""
    distill: dict[Name, Group]
    """The objective of each group; chosen by -S distill=NAME or a list of names."""
    teacher: ModelSettings
    """The model whose signals are distilled."""
    student: ModelSettings
    """The model that is trained."""
    prepare: PrepareSettings
    """Which samples there are."""
    answers: AnswersSettings
    """How the teacher answers training prompts, where a group or a sample needs it."""
    snapshot: SnapshotSettings
    """How the teacher's signals are captured and stored."""
    verify: VerifySettings
    """The gate before training."""
    objective: ObjectiveSettings
    """How the components are computed."""
    train: TrainSettings
    """How a student is trained."""
    evaluation: EvaluationSettings
    """How questions are answered."""
    storage: StorageSettings
    """Where things lie, and what is kept."""
    engine: EngineSettings
    """Who runs the trials; changes no result."""
    tuning: TuningSettings
    """What `python src/tune.py` tries, and what it chose."""
    pretrain: PretrainSettings
    """How the embedded models were made; read on purpose only."""

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

    def learning_rate(self, group: str) -> float:
        """The highest learning rate of this group's trials."""
        own = self.distill[group].learning_rate
        return self.train.learning_rate if own is None else own

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

    def _as_written(self) -> dict[str, Any]:
        """All settings as plain values; a group holds the components that it names, and no other."""
        tree = self.model_dump()
        for name, group in self.distill.items():
            unnamed = COMPONENTS.keys() - group.model_fields_set
            tree["distill"][name] = {key: value for key, value in tree["distill"][name].items() if key not in unnamed}
        return tree

    @model_validator(mode="after")
    def rules_hold(self) -> Settings:
        tree = self._as_written()
        problems = [*broken_rules(tree), *equal_groups(tree)]
        if problems:
            text = "; ".join(problem.sentence() for problem in problems)
            raise PydanticCustomError("broken_rules", "{text}", {"text": text, "problems": problems})
        return self


def load_settings(path: str | Path = "params.yaml") -> Settings:
    """Read and check the settings. Raises GlassboxError with every fault at once, one sentence each."""
    return settings_of(*read_yaml(path), path)


def settings_of(
    values: dict[str, Any], problems: list[Problem], path: str | Path, way_back: str = WAY_BACK
) -> Settings:
    """The same of what was read already, with the faults of reading; `way_back` ends what is said of faults."""
    try:
        settings = Settings.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = [*problems, *_problems(error.errors(include_url=False), values)]
    if problems:
        raise GlassboxError(refusal(path, problems, way_back))
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


def refusal(path: str | Path, problems: list[Problem], way_back: str = WAY_BACK) -> str:
    """What is said of a settings file that cannot be used."""
    count = "1 setting" if len(problems) == 1 else f"{len(problems)} settings"
    lines = [f"{path} is refused for {count}; nothing was run, and no output was removed.", ""]
    lines += [f"- {problem.sentence()}" for problem in problems]
    lines += ["", way_back]
    return "\n".join(lines)
