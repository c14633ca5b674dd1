"""The snapshot as every trial reads it: by sample id, only the columns that are needed, each page checked when
the process first reads it."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.files import brief_ids, parse_json, sha256_of
from glassbox.models.mixture import Mixture
from glassbox.snapshot.batch import Batch, StoredSample, assemble
from glassbox.snapshot.schema import (
    CHANNELS_FILE,
    EXPERTS_FILE,
    FURTHER,
    HEAD_FILE,
    INDEX_COLUMNS,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    SIGNAL_COLUMNS,
    Cell,
    Format,
)
from glassbox.snapshot.storage import REMEDY, CheckedOnce, cells, read_row_group

__all__ = ["Batch", "SampleInfo", "Snapshot", "open_snapshot", "read_manifest", "require_signals"]

KEYS = frozenset({"format", "counts", "rows", "positions", "parts", "files", "provenance"})
CACHED_BYTES = 1 << 28
SHARED_BY = 8
"""Row groups with fewer samples are not cached: a sample that fills much of one comes once an epoch, and its bytes
would push out those that many small samples share."""
BATCHES_AHEAD = 3
THREAD_NAME = "snapshot-reader"


@dataclass(frozen=True)
class SampleInfo:
    """n_chunks: of the answer, and all, where the sample is aligned with another tokenization."""

    sample_id: str
    task: str
    n_tokens: int
    n_positions_answer: int
    n_chunks: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Place:
    sample: StoredSample
    split: str
    part: int
    group: int
    row: int


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest; GlassboxError where there is none, or one of another schema version."""
    path = folder / MANIFEST_FILE
    if not path.exists():
        raise GlassboxError(f"There is no snapshot in {folder.resolve()}: run `dvc repro snapshot`.")
    try:
        manifest = parse_json(path.read_bytes())
    except ValueError as error:
        raise GlassboxError(f"{path} cannot be read ({error}). {REMEDY}") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise GlassboxError(
            f"{path} has schema version {manifest.get('schema_version')}, this code reads {SCHEMA_VERSION}: capture "
            "again with `dvc repro --force snapshot`."
        )
    missing = ((set() if manifest.get("signals") == [] else KEYS) | {"logical_digest", "signals"}) - manifest.keys()
    if missing:
        raise GlassboxError(f"{path} lacks {', '.join(sorted(missing))}: it is damaged. {REMEDY}")
    return manifest


def require_signals(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise GlassboxError where nothing was captured, because the student cuts text into other tokens."""
    if not manifest["signals"]:
        raise GlassboxError(
            f"{folder} holds no signal: teacher and student cut text into other tokens when it was written. "
            "`dvc repro verify` captures one for a pair that shares them, or for groups that align two tokenizations "
            "(`-S distill=aligned`); `-S distill=seqkd` needs none."
        )


def open_snapshot(folder: Path | str) -> Snapshot | None:
    """The snapshot, or None where nothing was captured."""
    return Snapshot(folder) if read_manifest(Path(folder))["signals"] else None


class Snapshot:
    """Opens in milliseconds: ids and places are kept in memory, signals are read when a batch asks for them."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        require_signals(self.folder, self.manifest)
        self.logical_digest: str = self.manifest["logical_digest"]
        self.format = Format.from_json(self.manifest["format"])
        self.vocabulary: int = self.format.vocabulary
        self.temperatures: tuple[float, ...] = self.format.temperatures
        self._paths = [self.folder / name for name in self.manifest["parts"]]
        self._files = [CheckedOnce(path) for path in self._paths]
        self._places: dict[str, _Place] = {}
        for part in range(len(self._paths)):
            self._index_part(part)
        if len(self._places) != self.manifest["rows"]:
            raise GlassboxError(
                f"{self.folder} holds {len(self._places)} samples, and its manifest {self.manifest['rows']}: a part is "
                f"not the one that was captured. {REMEDY}"
            )
        self._cache: OrderedDict[tuple[int, int, str], list[Cell]] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def _index_part(self, part: int) -> None:
        for group in range(self._files[part].checking.num_row_groups):
            table = self._table(part, group, INDEX_COLUMNS)
            ids = table.column("input_ids").combine_chunks()
            values, offsets = ids.values.to_numpy(), ids.offsets.to_numpy()
            columns = zip(
                *(table.column(name).to_pylist() for name in INDEX_COLUMNS if name != "input_ids"), strict=True
            )
            for row, (sample_id, task, split, loss_start, n_positions) in enumerate(columns):
                tokens = values[offsets[row] : offsets[row + 1]]
                sample = StoredSample(sample_id, task, tokens, loss_start, n_positions, {})
                self._places[sample_id] = _Place(sample, split, part, group, row)

    def samples(self, split: str) -> list[SampleInfo]:
        """The samples of "train", "validation" or "answered" in the order of their ids."""
        chosen = sorted((p.sample for p in self._places.values() if p.split == split), key=lambda s: s.sample_id)
        return [SampleInfo(s.sample_id, s.task, s.n_tokens, s.n_answer) for s in chosen]

    def read(
        self,
        sample_ids: Sequence[str],
        signals: frozenset[str],
        device: torch.device | str = "cpu",
        whole: frozenset[str] = frozenset(),
    ) -> Batch:
        """One batch in the order of `sample_ids`, with the named signals ("hidden", "attention", ...).

        `whole` names those that are wanted at all positions and not at the answer's alone, and "tokens" where the batch
        is to hold all positions. Raises GlassboxError for a signal or a sample that the snapshot lacks, for positions
        that were not captured, and for a damaged page.
        """
        self.require_positions(whole & signals)
        missing = signals - set(self.manifest["signals"])
        if missing:
            raise GlassboxError(
                f"The snapshot in {self.folder} holds {', '.join(self.manifest['signals'])}, but no "
                f"{' and no '.join(sorted(missing))}: capture it again with `dvc repro --force snapshot`."
            )
        unknown = [sample_id for sample_id in sample_ids if sample_id not in self._places]
        if unknown or not sample_ids:
            raise GlassboxError(
                f"The snapshot in {self.folder} has no sample {brief_ids(unknown)}."
                if unknown
                else "The batch is empty."
            )
        columns = [column for signal in sorted(signals) for column in SIGNAL_COLUMNS[signal]]
        return assemble(self.stored(sample_ids, columns), self.format, torch.device(device), whole)

    def require_positions(self, whole: frozenset[str]) -> None:
        """Raise GlassboxError for a signal that is wanted at all positions and was stored at the answer's alone."""
        kept = {"attention": self.format.attention_positions}
        kept |= {column.signal: "all" for column in FURTHER.values() if column.everywhere}
        lacking = sorted(name for name in whole - {"tokens"} if kept.get(name, self.format.positions) != "all")
        if lacking:
            setting = "attention" if lacking == ["attention"] else "hidden"
            raise GlassboxError(
                f"The snapshot in {self.folder} holds {' and '.join(lacking)} at answer positions only, and all "
                f"positions are asked for. Capture them: `dvc exp run -S snapshot.positions.{setting}=all`."
            )

    def stored(self, sample_ids: Sequence[str], columns: Sequence[str]) -> list[StoredSample]:
        """The samples with their cells of the named columns, undecoded; each row group is read once."""
        places = [self._places[sample_id] for sample_id in sample_ids]
        with self._lock:
            groups = {at: self._group(*at, columns) for at in dict.fromkeys((p.part, p.group) for p in places)}
        found = [(place, groups[place.part, place.group]) for place in places]
        return [replace(p.sample, cells={name: group[name][p.row] for name in columns}) for p, group in found]

    def _table(self, part: int, group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a row group, their pages checked the first time that this process reads them."""
        file = self._files[part]
        table = read_row_group(file.handle(group, columns), self._paths[part], group, columns)
        file.found_whole(group, columns)
        return table

    def _group(self, part: int, group: int, columns: Sequence[str]) -> dict[str, list[Cell]]:
        """A row group's cells by column, kept in memory where several samples share what was read."""
        found = {name: cached for name in columns if (cached := self._cached(part, group, name)) is not None}
        if missing := [name for name in columns if name not in found]:
            table = self._table(part, group, missing)
            for name in missing:
                found[name] = list(cells(table, name))
                if table.num_rows >= SHARED_BY:
                    self._keep((part, group, name), found[name])
        return found

    def _cached(self, part: int, group: int, column: str) -> list[Cell] | None:
        key = (part, group, column)
        if key in self._cache:
            self._cache.move_to_end(key)
        return self._cache.get(key)

    def _keep(self, key: tuple[int, int, str], found: list[Cell]) -> None:
        """Put cells into the cache and let go of those that were used longest ago."""
        self._cache[key] = found
        self._cached_bytes += _size(found)
        while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
            _, evicted = self._cache.popitem(last=False)
            self._cached_bytes -= _size(evicted)

    def batches(
        self,
        plan: Sequence[Sequence[str]],
        signals: frozenset[str],
        device: torch.device | str = "cpu",
        whole: frozenset[str] = frozenset(),
    ) -> Iterator[Batch]:
        """The planned batches in order, read ahead by one background thread that ends with the iterator.

        An error of the thread is raised where its batch would have come.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD_NAME)
        ahead: deque[Future[Batch]] = deque()
        try:
            for sample_ids in plan:
                ahead.append(thread.submit(self.read, sample_ids, signals, device, whole))
                if len(ahead) > BATCHES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)

    def head(self) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None]:
        """The teacher's output layer as float32: weight and, where it has one, bias."""
        tensors = self._tensors(HEAD_FILE)
        bias = tensors.get("bias")
        return tensors["weight"].float(), None if bias is None else bias.float()

    def channels(self, reach: str = "answer") -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """Mean and deviation of every hidden channel over the training split's positions: "answer", or "all"."""
        self.require_positions(frozenset({"hidden"} if reach == "all" else ()))
        tensors = self.channel_tensors()
        return tensors[f"mean_{reach}"], tensors[f"deviation_{reach}"]

    def layer_channels(
        self, reach: str = "answer"
    ) -> tuple[Float[Tensor, "layers width"], Float[Tensor, "layers width"]]:
        """The same of the further layers that are stored, in the order of `format.layers`."""
        tensors = self.channel_tensors()
        return tensors[f"layers_mean_{reach}"], tensors[f"layers_deviation_{reach}"]

    def channel_tensors(self) -> dict[str, Tensor]:
        """`mean_<positions>` and `deviation_<positions>` as they were stored."""
        return self._tensors(CHANNELS_FILE)

    def mixture(self) -> Mixture:
        """The gate and the final norm of the teacher's last layer, where its experts were captured."""
        if not self.format.experts:
            raise GlassboxError(
                f"The snapshot in {self.folder} holds nothing of a mixture of experts. Groups that mix the teacher's "
                "experts need a mixture-of-experts teacher and `dvc exp run -S snapshot.experts=last`."
            )
        return Mixture.from_tensors(self._tensors(EXPERTS_FILE))

    def _tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file that was opened under the sha256 of the manifest."""
        path, expected = self.folder / name, self.manifest["files"][name]["sha256"]
        found = sha256_of(path) if path.is_file() else "missing"
        if found != expected:
            raise GlassboxError(f"{path} is missing or damaged: its sha256 is not the manifest's. {REMEDY}")
        return load_file(path)


def _size(found: list[Cell]) -> int:
    return sum(len(memoryview(cell)) for cell in found)
