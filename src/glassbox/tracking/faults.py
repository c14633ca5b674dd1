"""What a store raises, as one sentence with what, where, why and the next command; no secret is part of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from glassbox.errors import GlassboxError
from glassbox.tracking.store import shown, store_name, store_path, store_uri

SECRETS = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
IN_QUERY = r"([?&](?:password|passwd|pwd|token|secret|sslpassword)=)[^&\s'\"]+"
LONGEST_REASON = 160
# What stands in an error's text -> what is wrong and what to do. {store} is the store without its password.
KNOWN = (
    (
        r"401|UNAUTHENTICATED|not authenticated|password authentication failed|Access denied for user",
        "{store} refuses the user name or password. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or, of "
        "a database, those in MLFLOW_TRACKING_URI), then the same command again.",
    ),
    (
        r"403|PERMISSION_DENIED|Permission denied.*experiment",
        "{store} knows the user, but does not let them write to its experiment 'glassbox'. Ask whoever runs the server "
        "for the permission EDIT (docs/team.md), then the same command again.",
    ),
    (
        r"XMinioStorageFull|QuotaExceeded|No ?space|InternalError.*PutObject|PutObject.*InternalError|Errno 28",
        "{store} cannot keep files: its artifact store is full or out of order ({reason}). Free or enlarge it, then "
        "the same command again.",
    ),
    (
        r"out-of-date database schema|Can't locate revision",
        "{store} was written by another version of MLflow than this one ({version}). Back it up, then "
        "`mlflow db upgrade {uri}`; or move it away and let `python src/restore.py` refill a new one from runs/.",
    ),
    (
        r"file is not a database|file is encrypted",
        "{store} is not an SQLite database, so that MLflow cannot open it. Move it away (`mv {path} {path}.old`), then "
        "the same command again; `python src/restore.py` refills a new one from runs/.",
    ),
    (
        r"readonly database|read-only|Read-only|unable to open database file|Errno 13|PermissionError",
        "{store} or the folder of its artifacts cannot be written ({reason}). Make them writable, or name another "
        "store in MLFLOW_TRACKING_URI or another folder in `storage.artifacts`, then the same command again.",
    ),
    (
        r"database is locked",
        "{store} is locked by another program for longer than MLflow waits. Close that program (`fuser {path}` names "
        "it), then the same command again.",
    ),
    (
        r"Max retries exceeded|Connection refused|timed out|could not translate host|Name or service|Connection reset"
        r"|connection failed|Connection aborted",
        "{store} does not answer ({reason}). Start it or correct MLFLOW_TRACKING_URI (`unset MLFLOW_TRACKING_URI` "
        "takes mlflow.db in the repository), then the same command again.",
    ),
    (
        r"No module named '(psycopg2?|pymysql|MySQLdb|boto3)'|unsupported URI|Can't load plugin|Could not parse",
        "{store} cannot be opened here ({reason}). MLFLOW_TRACKING_URI takes http(s)://, postgresql:// (after "
        "`pip install -r requirements-team.txt`) or sqlite:///; without it mlflow.db in the repository is used.",
    ),
)


def without_secrets(text: str) -> str:
    """The text without the passwords of URIs and of the environment."""
    for secret in filter(None, (*(os.environ.get(name) for name in SECRETS), *_passwords(store_uri()))):
        text = text.replace(secret, "***")
    return re.sub(IN_QUERY, r"\1***", re.sub(r"://[^\s'\"]*@", "://***@", text), flags=re.IGNORECASE)


def _passwords(uri: str) -> list[str]:
    """The password of a store's address, as it is written there and as a driver reads it."""
    before, at, _ = uri.partition("://")[2].rpartition("@")
    written = before.partition(":")[2] if at else ""
    return sorted({written, unquote(written)}, key=len, reverse=True)


def reason(error: BaseException) -> str:
    """The first line of an error, short and without secrets; of a failed request the innermost cause."""
    text = without_secrets(" ".join(str(error).split("\n")[0].split()) or type(error).__name__)
    for sign in (
        "Connection refused",
        "timed out",
        "Name or service not known",
        "Connection reset",
        "Connection aborted",
    ):
        if sign in text:
            return sign
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def explained(error: Exception) -> GlassboxError:
    """What the user can do about an error of the store."""
    if isinstance(error, GlassboxError):
        return error
    from mlflow.version import VERSION

    text = f"{getattr(error, 'error_code', '')} {type(error).__name__} {error}"
    fallback = "{store} cannot be used: {reason}. Correct it or MLFLOW_TRACKING_URI, then the same command again."
    sentence = next((sentence for pattern, sentence in KNOWN if re.search(pattern, text)), fallback)
    uri, path = store_uri(), store_path()
    name = f"MLflow's store {store_name()}"
    return GlassboxError(
        sentence.format(
            store=name,
            uri=uri if path else shown(uri),
            path=path or store_name(),
            reason=reason(error),
            version=VERSION,
        )
    )


@contextmanager
def explaining() -> Iterator[None]:
    """Errors of the store as sentences; those of the program stay what they are."""
    try:
        yield
    except (ImportError, OSError) as error:
        raise explained(error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in (
            "mlflow",
            "sqlalchemy",
            "sqlite3",
            "botocore",
            "requests",
            "urllib3",
        ):
            raise explained(error) from error
        raise
