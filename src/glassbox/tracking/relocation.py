"""A store that was moved or copied with its repository: MLflow keeps the absolute place of artifacts in its tables."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname


def follow_the_root(database: Path, experiments: Sequence[str], artifacts: Path) -> None:
    """Let the experiments keep their artifacts in `artifacts`, and runs theirs there as far as they lie there.

    MLflow has no call for it, so the two columns are written as they are. Another place than a folder is left alone.
    """
    place = artifacts.as_uri()
    n_moved, n_runs, left = 0, 0, ""
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        query = "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?"
        for experiment in experiments:
            identity, former = connection.execute(query, (experiment,)).fetchone()
            if former == place or urlparse(former).scheme not in ("file", ""):
                continue
            change = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
            connection.execute(change, (place, identity))
            runs = connection.execute(
                "SELECT run_uuid, artifact_uri FROM runs WHERE experiment_id = ?", (identity,)
            ).fetchall()
            moved = [(uri.replace(former, place, 1), run) for run, uri in runs if uri and (artifacts / run).is_dir()]
            connection.executemany("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", moved)
            n_moved, n_runs, left = n_moved + len(moved), n_runs + len(runs), left or former
    if left:
        print(
            f"{database.name} kept artifacts in {url2pathname(urlparse(left).path)}; the repository or "
            f"`storage.artifacts` has changed, so that they now go to {artifacts}. Those of {n_moved} of {n_runs} "
            "runs lie there.",
            file=sys.stderr,
        )
