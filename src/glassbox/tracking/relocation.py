"""A store that was moved or copied with its repository: MLflow keeps the absolute place of artifacts in its tables."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname


def follow_the_root(database: Path, experiment: str, artifacts: Path) -> None:
    """Let the experiment keep its artifacts in `artifacts`, and runs theirs there as far as they lie there.

    MLflow has no call for it, so the two columns are written as they are. Another place than a folder is left alone.
    """
    place = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        query = "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?"
        identity, former = connection.execute(query, (experiment,)).fetchone()
        if former == place or urlparse(former).scheme not in ("file", ""):
            return
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (place, identity))
        runs = connection.execute(
            "SELECT run_uuid, artifact_uri FROM runs WHERE experiment_id = ?", (identity,)
        ).fetchall()
        moved = [(uri.replace(former, place, 1), run) for run, uri in runs if uri and (artifacts / run).is_dir()]
        connection.executemany("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", moved)
    print(
        f"{database.name} kept artifacts in {url2pathname(unquote(urlparse(former).path))}; the repository or "
        f"`storage.artifacts` has changed, so that they now go to {artifacts}. Those of {len(moved)} of {len(runs)} "
        "runs lie there.",
        file=sys.stderr,
    )
