"""What a whole study holds: the groups and seeds that conf/ names, whichever of them the settings have selected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glassbox.config import Settings, Weights
from glassbox.errors import GlassboxError
from glassbox.yaml_files import read_yaml


@dataclass(frozen=True)
class Plan:
    """groups: every planned group with its weights under the current settings, in the plan's order."""

    groups: dict[str, Weights]
    seeds: tuple[int, ...]

    def is_narrowed_by(self, settings: Settings) -> bool:
        """Whether the settings select fewer seeds than planned, or fewer groups."""
        return not (set(self.seeds) <= set(settings.seeds) and set(self.groups) <= set(settings.groups))


def read_plan(conf: Path, settings: Settings) -> Plan:
    """The plan that conf/distill/all.yaml, conf/config.yaml and the scale give.

    Without a conf folder: what the settings hold.
    """
    groups = {group: settings.distill[group] for group in settings.groups}
    everything = conf / "distill" / "all.yaml"
    if not everything.is_file():
        return Plan(groups, settings.seeds)
    defaults = read_yaml(everything)[0].get("defaults", [])
    names = [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]
    planned = {name: groups[name] if name in groups else _read_group(conf, name, settings) for name in names}
    return Plan(planned, _planned_seeds(conf, settings))


def _planned_seeds(conf: Path, settings: Settings) -> tuple[int, ...]:
    """The seeds of the scale in use where it names its own, else those of config.yaml."""
    for path in (conf / "scale" / f"{settings.scale}.yaml", conf / "config.yaml"):
        seeds = read_yaml(path)[0].get("seeds") if path.is_file() else None
        if isinstance(seeds, list):
            return tuple(seeds)
    return settings.seeds


def _read_group(conf: Path, group: str, settings: Settings) -> Weights:
    """The group's weights as composition would resolve them, `${weights.<component>}` included."""
    path = conf / "distill" / f"{group}.yaml"
    try:
        whole = OmegaConf.create({"weights": settings.weights.model_dump(), "distill": read_yaml(path)[0]})
        resolved = OmegaConf.to_container(whole, resolve=True)
        return Weights(**resolved["distill"][group])  # type: ignore[index, call-overload]
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise GlassboxError(
            f"{path} does not give the weights of the group '{group}' that conf/distill/all.yaml names: {error}"
        ) from error
