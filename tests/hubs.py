"""A model hub on this machine: folders served as the hub serves repositories, with its refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

TOKEN = "hf_acceptedacceptedacceptedaccepted"
UNGRANTED_TOKEN = "hf_ungrantedungrantedungrantedungra"
INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}


class Hub(BaseHTTPRequestHandler):
    """`folder` holds models/<owner>/<name> and datasets/<owner>/<name>; every repository has one commit, and is gated
    where its owner is called `gated`."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve()

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        repository = self.folder / kind / "/".join(parts[:2])
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN, UNGRANTED_TOKEN):
            return self._refuse(401, INVALID)
        if not repository.is_dir():
            return self._refuse(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        if parts[0] == "gated" and token != TOKEN:
            return self._refuse(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        what, revision, *inner = parts[2:] if len(parts) > 2 else ("revision", "main")
        if revision not in ("main", commit(repository)):
            return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        if api:
            return self._answer(repository, what, "/".join(inner), "recursive=true" in address.query)
        return self._file(repository, "/".join(inner))

    def _file(self, repository: Path, path: str) -> None:
        file = repository / path
        if not file.is_file():
            return self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(repository)})
        content = file.read_bytes()
        self._send(
            200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit(repository)}
        )

    def _answer(self, repository: Path, what: str, path: str, recursive: bool) -> None:
        files = [file.relative_to(repository).as_posix() for file in sorted(repository.rglob("*")) if file.is_file()]
        place = repository / path
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": "/".join(repository.parts[-2:]), "sha": commit(repository), "siblings": siblings})
        elif what == "tree" and place.is_dir():
            inner = place.rglob("*") if recursive else place.iterdir()
            self._json([self._entry(repository, entry) for entry in sorted(inner)])
        elif what == "paths-info":
            wanted = [repository / name for name in json.loads(self.body)["paths"]]
            self._json([self._entry(repository, entry) for entry in wanted if entry.exists()])
        else:
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})

    @staticmethod
    def _entry(repository: Path, place: Path) -> dict[str, Any]:
        name = place.relative_to(repository).as_posix()
        size = place.stat().st_size if place.is_file() else 0
        kind = "file" if place.is_file() else "directory"
        return {"type": kind, "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": size}

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self._send(status, b"", headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def commit(repository: Path) -> str:
    """A repository's one commit: 40 hexadecimal digits, as the hub's have."""
    return hashlib.sha1("/".join(repository.parts[-2:]).encode()).hexdigest()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a hub that serves `folder` while the context is open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"folder": folder}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def save_datasets(folder: Path) -> Path:
    """The three data sets as `hf download --local-dir folder/<owner>/<name>` leaves them, a few rows each."""
    sentences = [f"film number {number} is {'good' if number % 2 else 'dull'} " for number in range(40)]
    reviews = {"sentence": sentences, "label": [number % 2 for number in range(40)], "idx": list(range(40))}
    _save_dataset(
        folder / "nyu-mll/glue",
        {
            "cola": {"train": {"sentence": ["a sentence"], "label": [1], "idx": [0]}},
            "sst2": {
                "train": reviews,
                "validation": {"sentence": [*sentences[:2], "quite new "], "label": [0, 1, 1], "idx": [0, 1, 2]},
                "test": {"sentence": ["without a label "], "label": [-1], "idx": [0]},
            },
        },
    )
    rows = {"auxiliary_train": 25, "dev": 2, "validation": 6, "test": 8}
    _save_dataset(folder / "cais/mmlu", {"all": {split: _questions(split, count) for split, count in rows.items()}})
    problems = {split: _problems(split, count) for split, count in {"train": 30, "test": 9}.items()}
    _save_dataset(folder / "openai/gsm8k", {"main": problems})
    return folder


def _questions(split: str, count: int) -> dict[str, list[Any]]:
    return {
        "question": [f"{split}: which letter comes {number}th?" for number in range(count)],
        "subject": ["" if split == "auxiliary_train" else f"subject_{number % 2}" for number in range(count)],
        "choices": [["w", "x", "y", "z"]] * count,
        "answer": [number % 4 for number in range(count)],
    }


def _problems(split: str, count: int) -> dict[str, list[Any]]:
    steps = [f"{number} + 1 = <<{number}+1={number + 1}>>{number + 1}" for number in range(count)]
    return {
        "question": [f"{split}: what is {number} + 1?" for number in range(count)],
        "answer": [f"{step}\n#### {number + 1}" for number, step in enumerate(steps)],
    }


def _save_dataset(folder: Path, configurations: dict[str, dict[str, dict[str, list[Any]]]]) -> None:
    card: dict[str, Any] = {"configs": []}
    for configuration, splits in configurations.items():
        (folder / configuration).mkdir(parents=True)
        for split, columns in splits.items():
            pq.write_table(pa.table(columns), folder / configuration / f"{split}-00000-of-00001.parquet")
        files = [{"split": split, "path": f"{configuration}/{split}-*"} for split in splits]
        card["configs"].append({"config_name": configuration, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n", encoding="utf-8")
