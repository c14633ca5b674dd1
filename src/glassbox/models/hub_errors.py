"""Why something could not be had from the hub, as a sentence with the next step: one for each cause.

Transformers and `datasets` wrap the hub's typed errors in errors of their own: the chain of causes is searched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

Cause = Literal["unreachable", "gated", "token", "repository", "revision", "file"]
MISSING_FILE_PHRASES = (  # the libraries have no typed error for these
    "does not appear to have",
    "Couldn't instantiate the backend tokenizer",
    "No (supported) data files",
    "Couldn't infer the same data file format",
    "BuilderConfig",
    "Unknown split",
)


@dataclass(frozen=True)
class Wanted:
    """What was asked of the hub; `setting` is where the id stands, `elsewhere` what to do without a hub."""

    kind: Literal["model", "tokenizer", "dataset"]
    repository: str
    revision: str | None
    setting: str
    elsewhere: str

    @property
    def page(self) -> str:
        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.repository}"

    @property
    def name(self) -> str:
        return f"The {self.kind} '{self.repository}'"


def refusal(error: BaseException, wanted: Wanted) -> str | None:
    """The sentence for an error of the hub's libraries; None where the hub is not the cause."""
    cause = cause_of(error)
    return None if cause is None else without_token(_SENTENCES[cause](wanted, error))


def cause_of(error: BaseException) -> Cause | None:
    """Which of the known causes an error has, by the typed errors in its chain."""
    chain = list(_chain(error))
    for typed, cause in _TYPES:
        if any(isinstance(each, typed) for each in chain):
            return cause
    status = _status(error) or 0
    if status in (401, 403):
        return "token"
    if status >= 500 or any(_is_connection_fault(each) for each in chain):
        return "unreachable"
    missing = any(isinstance(each, EntryNotFoundError | FileNotFoundError) for each in chain)
    return "file" if missing or any(phrase in str(error) for phrase in MISSING_FILE_PHRASES) else None


def without_token(text: str) -> str:
    """The text with the token in use, should a library have quoted it, blotted out."""
    token = get_token()
    return text.replace(token, "<token>") if token else text


_TYPES: tuple[tuple[type[BaseException], Cause], ...] = (
    (GatedRepoError, "gated"),
    (RepositoryNotFoundError, "repository"),
    (RevisionNotFoundError, "revision"),
)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(error: BaseException) -> int | None:
    """The HTTP status of the first answer in the chain that refused."""
    answers = (each for each in _chain(error) if isinstance(each, HfHubHTTPError))
    return next((each.response.status_code for each in answers), None)


def _is_connection_fault(error: BaseException) -> bool:
    """Connection refused, a name not resolved, a time-out, offline mode; the HTTP library's errors by their name."""
    if isinstance(error, ConnectionError | TimeoutError | LocalEntryNotFoundError):
        return True
    return any(base.__name__ == "TransportError" for base in type(error).__mro__)


def _unreachable(wanted: Wanted, error: BaseException) -> str:
    status = _status(error)
    how = f"answers with {status}" if status else "cannot be reached"
    offline = " (HF_HUB_OFFLINE is set)" if constants.is_offline_mode() else ""
    return (
        f"{wanted.name} could not be fetched: the hub at {constants.ENDPOINT} {how} from this machine{offline}, and "
        "its cache does not hold it. Check the connection, the proxy and HF_ENDPOINT, or do without the hub: "
        f"{wanted.elsewhere}."
    )


def _gated(wanted: Wanted, error: BaseException) -> str:
    if get_token() is None:
        return (
            f"{wanted.name} is gated, and no token was sent. Accept its terms at {wanted.page}, then run "
            "`hf auth login` (or set HF_TOKEN) and the command again."
        )
    return (
        f"{wanted.name} is gated, and the account of the token in use ({_origin()}) has no access to it. Ask for it "
        f"at {wanted.page}, wait until it is granted, and run the command again."
    )


def _token(wanted: Wanted, error: BaseException) -> str:
    return (
        f"{wanted.name} could not be fetched: the hub refused the token from {_origin()} (HTTP {_status(error)}), "
        f"which is mistyped, expired, revoked or may not read. Make one at {constants.ENDPOINT}/settings/tokens, "
        "then run `hf auth login` (or set HF_TOKEN) and the command again."
    )


def _repository(wanted: Wanted, error: BaseException) -> str:
    return (
        f"{wanted.name} is not on the hub at {constants.ENDPOINT}, or is private and the token in use may not see it. "
        f"Correct {wanted.setting}, or log in with `hf auth login`."
    )


def _revision(wanted: Wanted, error: BaseException) -> str:
    return (
        f"{wanted.name} has no revision '{wanted.revision}'. Take a commit from {wanted.page}/commits/main and set "
        f"the revision of {wanted.setting} to it."
    )


def _file(wanted: Wanted, error: BaseException) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
    revision = f" at revision '{wanted.revision}'" if wanted.revision else ""
    return (
        f"{wanted.name}{revision} lacks a file that is needed ({reason}). Compare {wanted.page} with what "
        f"{wanted.setting} asks for; another revision may hold it."
    )


def _origin() -> str:
    return "HF_TOKEN" if os.environ.get("HF_TOKEN") else "`hf auth login`"


_SENTENCES = {
    "unreachable": _unreachable,
    "gated": _gated,
    "token": _token,
    "repository": _repository,
    "revision": _revision,
    "file": _file,
}
