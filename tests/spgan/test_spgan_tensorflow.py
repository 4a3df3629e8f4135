"""Runs tests/spgan/gan in a separate process, since TensorFlow and PyTorch never share one, and reports each
of its tests here.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FOLDER = Path(__file__).parent / "gan"
TESTS = [
    f"{path.stem}::{node.name}"
    for path in sorted(FOLDER.glob("test_*.py"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory) -> dict[str, str]:
    """Test -> its errors, empty if it passed; parametrised tests together."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: pip install -e '.[spgan]'")
    report = tmp_path_factory.mktemp("gan") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(FOLDER), f"--junitxml={report}", "-p", "no:cacheprovider"]
    environment = {
        **os.environ,
        "SPGAN_TENSORFLOW": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert report.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    errors: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname').rsplit('.', 1)[-1]}::{case.get('name').split('[', 1)[0]}"
        wrong = "\n".join(
            child.text or child.get("message", "") for child in case if child.tag in ("failure", "error")
        )
        errors[name] = f"{errors.get(name, '')}{wrong}"
    return errors


@pytest.mark.parametrize("test", TESTS)
def test_in_tensorflow(outcomes, test):
    assert test in outcomes, f"{test} did not run"
    assert not outcomes[test], outcomes[test]
