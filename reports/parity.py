"""Why the code may be believed: what the tests compare with the authors' released code, from the notes beside
their golden arrays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.content import check_shape, parse_json, read_text
from common.errors import InputError
from common.provenance import ROOT

GOLDEN = ROOT / "tests" / "golden"
ERRORS = "errors.json"


def parity(paper: str, folder: Path = GOLDEN) -> list[dict[str, Any]]:
    """Returns a row for each note of a paper: what was compared, on which commit, the largest error that its
    test lets pass, and the largest that was measured (see tests/parity.py; None where it was not).

    Raises `InputError` for a note without one of the first three.
    """
    rows, measured = [], _measured(folder / ERRORS)
    for path in sorted(folder.glob(f"{paper}_*.json")):
        note = parse_json(read_text(path, 1_000_000, links=True), path.name)
        if not isinstance(note, dict) or not {"functions", "repository", "commit", "tolerance"} <= set(note):
            raise InputError(f"{path.name}: expected functions, repository, commit and tolerance")
        rows.append(
            {
                "what": path.stem.removeprefix(f"{paper}_").replace("_", " "),
                "functions": note["functions"],
                "repository": note["repository"],
                "commit": note["commit"],
                "error": note["tolerance"],
                "measured": measured.get(path.stem),
                "note": f"tests/golden/{path.name}",
            }
        )
    return rows


def _measured(path: Path) -> dict[str, float]:
    """Returns the measured errors by file of golden arrays, relative to the largest expected entry."""
    if not path.exists():
        return {}
    errors = parse_json(read_text(path, 1_000_000, links=True), path.name)
    check_shape(errors, dict[str, float], path.name)
    return errors
