"""Runs the examples of docs/api.md, each as it is printed, in a folder of its own."""

import os
import re
import subprocess
import sys

import pytest

from common.provenance import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.mark.parametrize("title, code", EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_an_example_runs(title, code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if "import tensorflow" in code:  # not in a process that has loaded PyTorch
        pytest.importorskip("tensorflow")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    else:
        exec(compile(code, f"docs/api.md, {title}", "exec"), {"__name__": "example"})


def test_the_page_lists_its_examples_and_they_are_short():
    assert len(EXAMPLES) == PAGE.count("\n## ") == PAGE.count("\n* [") >= 8
    for title, code in EXAMPLES:
        link = re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        assert f"* [{title}](#{link})" in PAGE
        assert len(code.splitlines()) <= 26, title
