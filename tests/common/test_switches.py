"""The switches of a configuration as data: names, types, comments, values by preset; every paper's fields say
what they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from common.cli import main
from common.records import PAPERS, Experiment, Paper
from common.switches import field_comments, switches
from reports.experiments import switches as ask


@dataclass(frozen=True)
class Recipe:
    """How it is trained.

    At length.
    """

    epochs: int = 60  # Sec. 4.2; "#" in a comment
    drops: tuple[int, ...] = (  # learning rate x 0.1
        40,  # here
    )
    silent: str = "# not a comment"
    mode: Literal["a", "b"] = "a"  # a or b


@dataclass(frozen=True)
class Config:
    """One run."""

    recipe: Recipe = field(default_factory=Recipe)
    beta: float | None = None  # none: off


def test_comments_are_those_of_the_field():
    assert field_comments(Recipe) == {
        "epochs": 'Sec. 4.2; "#" in a comment',
        "drops": "learning rate x 0.1 here",
        "mode": "a or b",
    }


def test_switches_have_dotted_names_types_groups_and_the_values_of_every_preset(capsys):
    presets = {"demo": Config(Recipe(epochs=2), beta=0.5), "paper": Config()}
    entries = switches(presets)
    assert [entry["name"] for entry in entries] == [
        "recipe.epochs",
        "recipe.drops",
        "recipe.silent",
        "recipe.mode",
        "beta",
    ]
    assert entries[0] == {
        "name": "recipe.epochs",
        "type": "int",
        "comment": 'Sec. 4.2; "#" in a comment',
        "group": "How it is trained.",
        "values": {"demo": 2, "paper": 60},
    }
    assert entries[3]["type"] == 'Literal["a", "b"]' or entries[3]["type"] == "Literal['a', 'b']"
    assert entries[4]["values"] == {"demo": 0.5, "paper": None} and entries[4]["group"] == "One run."

    toy = Paper("toy", None, presets, [Experiment("toy/a/b", "b")], ("toy/a/b",), ("toy/a/b",))
    assert main(toy, None, ["--list-switches"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(entries))
    assert main(toy, None, ["--list-switches", "--list-experiments"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["switches"] == json.loads(json.dumps(entries)) and [
        entry["key"] for entry in both["experiments"]
    ] == ["toy/a/b"]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_switch_of_a_paper_says_what_it_is(paper):
    entries = ask(paper)
    assert len(entries) > 10 and len({entry["name"] for entry in entries}) == len(entries)
    said = sum(bool(entry["comment"]) for entry in entries)
    assert said >= 0.8 * len(entries), [entry["name"] for entry in entries if not entry["comment"]]
