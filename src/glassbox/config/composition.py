"""params.yaml as conf/ composes it, and what a params.yaml has that conf/ does not give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from glassbox.config.storage import root
from glassbox.config.yaml_files import read_yaml
from glassbox.files import read_json, write_synced

NOT_IN_NAMES = (
    "groups",
    "seeds",
    "engine",
    "storage",
)  # a trial's name says the first two, and how it ran is no setting
DERIVED = "distill"  # made of `weights` where that differs
MOST_IN_A_NAME = 3


def composition(conf: Path, overrides: Sequence[str] = ()) -> str:
    """The text of params.yaml that a configuration folder gives under Hydra overrides. Raises HydraException."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf.resolve()), version_base=None):
        configuration = compose(config_name="config", overrides=list(overrides))
    OmegaConf.resolve(configuration)
    return OmegaConf.to_yaml(configuration)


def differences(conf: Path, params: Path) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (its value in params.yaml, what conf/ gives), under the scale that params.yaml names.

    Empty where there is no conf/config.yaml, or where it cannot be composed.
    """
    if not (conf / "config.yaml").is_file() or not params.is_file():
        return {}
    import yaml
    from hydra.errors import HydraException

    own, _ = read_yaml(params)
    found: dict[str, tuple[Any, Any]] = {}
    try:
        base = yaml.safe_load(composition(conf))
        if own.get("scale") != base["scale"]:
            found["scale"] = own.get("scale"), base["scale"]
            base = yaml.safe_load(composition(conf, [f"scale={own.get('scale')}"]))
    except HydraException:
        return found
    own_values, base_values = dict(_flat(own)), dict(_flat(base))
    for key in (key for key in own_values if key in base_values and own_values[key] != base_values[key]):
        found[key] = own_values[key], base_values[key]
    if any(key.startswith("weights.") for key in found):
        found = {key: values for key, values in found.items() if not key.startswith(f"{DERIVED}.")}
    return found


def kept_differences(conf: Path, params: Path) -> dict[str, tuple[Any, Any]]:
    """`differences`, kept in .glassbox and looked for anew only where params.yaml or a file of conf/ has changed.

    Composing takes most of a second, and every stage that trains or compares asks.
    """
    files = [path for path in (params, *sorted(conf.rglob("*.yaml"))) if path.is_file()]
    read = sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    place = root() / ".glassbox" / "differences.json"
    known = read_json(place)
    if known.get("read") != read:
        known = {"read": read, "found": differences(conf, params)}
        place.parent.mkdir(exist_ok=True)
        write_synced(place, json.dumps(known).encode())
    return known["found"]


def name_of(found: Mapping[str, tuple[Any, Any]]) -> str:
    """'weights.hidden=0.3 scale=mine', for the names of runs; empty where nothing but groups and seeds differs."""
    told = [f"{key}={_short(own)}" for key, (own, _) in found.items() if key.split(".")[0] not in NOT_IN_NAMES]
    rest = f"and {len(told) - MOST_IN_A_NAME} more" if len(told) > MOST_IN_A_NAME else ""
    return " ".join([*told[:MOST_IN_A_NAME], *([rest] if rest else [])])


def notice(found: Mapping[str, tuple[Any, Any]]) -> str:
    """What `make study` says of a params.yaml that an experiment has left.

    Empty for a study of its own: another scale, with the groups and seeds that it was composed with.
    """
    own_study = ("scale", "groups", "seeds") if "scale" in found else ()
    told = [
        f"{key} {_short(own)} (conf/: {_short(base)})" for key, (own, base) in found.items() if key not in own_study
    ]
    if not told:
        return ""
    scale = f"python src/params.py scale={found['scale'][0]}" if "scale" in found else "make params"
    return (
        f"params.yaml is not what conf/ gives: {'; '.join(told)}. Where that is an experiment of before, `{scale}` "
        "returns to the study; to keep it, write it into conf/."
    )


def _short(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
