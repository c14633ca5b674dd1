"""What the README tells a newcomer to type is there to be typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from glassbox.config.settings import load_settings

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = TEXTS[0].read_text(encoding="utf-8")


def test_every_target_of_the_makefile_has_its_lines_for_windows():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    windows = (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")
    assert set(targets) - {"help"} == set(re.findall(r"^\| `([a-z-]+)` \|", windows, re.MULTILINE))


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_scripts_links_and_targets_that_are_named_exist(text: Path):
    content = text.read_text(encoding="utf-8")
    for script in re.findall(r"python ((?:src|benchmarks)/[\w/]+\.py)", content):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", content):
        assert (text.parent / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)`", content):
        assert f"\n{target}:" in makefile, target


def test_the_trial_of_the_example_is_one_of_the_study():
    settings = load_settings(ROOT / "params.yaml")
    group, seed = re.findall(r"-P group=(\w+) -P seed=(\d+)", README)[0]
    assert group in settings.groups and int(seed) in settings.seeds
    default = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]["train"]["parameters"]
    assert int(default["seed"]["default"]) in settings.seeds


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_results_stand_in_one_marked_place():
    begin, end = README.index("<!-- Refreshed after each study"), README.index("<!-- Until here. -->")
    outside = README[:begin] + README[end:]
    assert "Mean test score" in README[begin:end] and "Mean test score" not in outside
    assert not re.search(r"[+-]\d+\.\d+ to [+-]\d", outside)
