"""The pages of docs/ agree with the code."""

import re

from common.evaluation.__main__ import COMMANDS, _parser
from common.foreign import PROGRAMS
from common.provenance import ROOT

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_every_program_is_in_the_table():
    table = PAGE[PAGE.index("| program |") :]
    for program in PROGRAMS:
        if not program.own and program.name != "a ResNet" and not program.name.startswith("ARN"):
            name = program.name.removesuffix(" (fc512)")
            row = re.search(rf"^\| {re.escape(name)} \|.*", table, re.MULTILINE)
            assert row, name
            assert row[0].endswith(f"{program.interpolation} |")
            assert ("mirrored" in row[0]) == program.flip and (
                "not normalised" in row[0]
            ) != program.normalise


def test_every_flag_and_command_exists():
    flags = set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--net"}
    known = {
        option
        for action in _parser()._actions
        if isinstance(action.choices, dict)
        for command in action.choices.values()
        for option in command._option_string_actions
    }
    assert flags <= known, flags - known
    assert set(re.findall(r"python -m common.evaluation ([a-z]+)", PAGE)) == set(COMMANDS)
