"""The house rules: who may import whom, what imports without a framework, and what no file may contain."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.provenance import ROOT
from common.records import PAPERS
from reports.readme import results_page

ROOMS = (*PAPERS, "common", "reports")
ALLOWED = {
    **{paper: {paper, "common"} for paper in PAPERS},
    "common": {"common"},
    "reports": {"reports", "common"},
}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    assert sources(room), f"{room} is empty"
    for path in sources(room):
        rooms = {name.split(".")[0] for name in imported(path)} & set(ROOMS)
        assert rooms <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {rooms - ALLOWED[room]}"


def test_tensorflow_stays_below_spgan_gan():
    for room in ROOMS:
        for path in sources(room):
            if "tensorflow" in {name.split(".")[0] for name in imported(path)}:
                assert path.is_relative_to(ROOT / "spgan" / "gan"), path.relative_to(ROOT)


@pytest.mark.parametrize(
    "module",
    [
        "common.datasets",
        "common.datasets.synthetic",
        "common.runs",
        "common.cli",
        "common.evaluation.ranking",
        "reports",
    ],
)
def test_imports_without_a_framework(module):
    code = f"import sys, {module}; sys.exit(int('torch' in sys.modules or 'tensorflow' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes text in the encoding of the machine's locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    keywords = {word.arg: word.value for word in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    if name in {"read_text", "write_text"}:
        return isinstance(call.func, ast.Attribute) and len(call.args) <= (name == "write_text")
    if name in {"open", "fdopen"}:
        of = getattr(getattr(call.func, "value", None), "id", "")
        binary = of in {"Image", "archive", "browser"} or (of == "os" and name == "open")
        words = [word.value for word in call.args[:2] if isinstance(word, ast.Constant)]
        return not binary and not any("b" in word for word in words if isinstance(word, str))
    return "text" in keywords or "universal_newlines" in keywords


def test_text_is_read_and_written_as_utf8():
    """A computer may have another locale: `encoding` is named at every place."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.relative_to(ROOT).parts[0] in {*ROOMS, "tests"}:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    assert not text_without_encoding(node), f"{path.relative_to(ROOT)}:{node.lineno}"


def test_a_generated_document_does_not_depend_on_the_locale():
    code = "import sys; from reports.readme import results_page as page\n"
    code += "assert sys.stdout.encoding != 'utf-8'; sys.stdout.buffer.write(page('ptgan').encode('utf-8'))"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ascii_only.pop("PYTHONIOENCODING", None)
    options = "-X warn_default_encoding -W error::EncodingWarning".split()
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=ascii_only, capture_output=True, check=True)
    assert done.stdout.decode("utf-8") == results_page("ptgan")


def test_no_machine_and_no_registry_in_tracked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home)/\w|pypi\.org|files\.pythonhosted")
    for name in listed.stdout.split():
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".json", ".jsonl", ".txt", ""}
            and path.is_file()
            and path != Path(__file__).resolve()
        ):
            found = pattern.search(path.read_text(errors="replace", encoding="utf-8"))
            assert found is None, f"{name}: {found.group()}"
