"""`--help` fits on one screen; `--help-all` lists every field."""

import pytest

from arn.experiments import ARN
from common.cli import main
from common.help import FIRST, short_help
from common.job import Options
from common.switches import switches
from hhl.experiments import HHL


@pytest.mark.parametrize("paper", [HHL, ARN], ids=lambda paper: paper.name)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_first_flags_fit_on_one_screen(paper, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    lines = short_help(paper, "demo").splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert all(f"--{name.replace('_', '-')}" in text for name in FIRST)
    assert set(FIRST) <= set(Options.__dataclass_fields__)
    assert f"default {paper.source}" in " ".join(text.split()) and "--help-all" in text


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_short(flag, capsys):
    assert main(HHL, lambda job: None, [flag]) == 0
    out = capsys.readouterr().out
    assert "--net.backbone" not in out and "--help-all lists all" in out


def test_help_all_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        main(HHL, lambda job: None, ["--help-all"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "--net.backbone" in out and "--method.beta" in out


def test_the_number_of_flags_is_that_of_the_fields(capsys):
    main(HHL, lambda job: None, ["--help", "--preset", "paper"])
    number = int(capsys.readouterr().out.split("lists all ")[1].split()[0])
    assert number == len(Options.__dataclass_fields__) + len(switches(HHL.presets))


def test_an_unknown_preset_with_help_is_one_line(capsys):
    assert main(HHL, lambda job: None, ["--help", "--preset", "demoo"]) == 2
    assert "unknown preset" in capsys.readouterr().err
