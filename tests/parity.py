"""Measures the errors behind the parity tests: `MEASURE_PARITY=1 python -m pytest tests/hhl tests/arn ...`.

A pytest plugin (see conftest.py). Of every comparison that passes in a test which loads golden arrays it
takes the largest difference, relative to the largest expected entry, and writes the maximum for each file of
arrays to `golden/errors.json`, from which the pages of the reports take it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parent / "golden" / "errors.json"


class ParityErrors:
    """The plugin; `loaded` names the golden files that the running test has loaded."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.largest: dict[str, float] = {}

    def note(self, actual: Any, expected: Any) -> None:
        """Notes a comparison that has passed."""
        found, wanted = (
            np.asarray(getattr(x, "detach", lambda x=x: x)(), np.float64) for x in (actual, expected)
        )
        finite = np.isfinite(wanted)  # a query without a match has no average precision
        if not self.loaded or not finite.any():
            return
        scale = max(np.abs(wanted[finite]).max(), np.finfo(np.float64).tiny)
        error = float(np.abs(found - wanted)[finite].max() / scale)
        for name in self.loaded:
            self.largest[name] = max(self.largest.get(name, 0.0), error)

    def watch(self, module: Any, name: str) -> None:
        """Replaces a comparison of arrays by one that also notes their difference."""
        compare: Callable = getattr(module, name)

        @wraps(compare)
        def watched(actual: Any, expected: Any, *args: Any, **options: Any) -> Any:
            passed = compare(actual, expected, *args, **options)
            if passed is not False:
                self.note(actual, expected)
            return passed

        setattr(module, name, watched)

    def pytest_runtest_setup(self) -> None:
        self.loaded = set()
        torch = sys.modules.get("torch")
        if torch is not None and not hasattr(torch.allclose, "__wrapped__"):
            self.watch(torch, "allclose")

    def pytest_sessionstart(self) -> None:
        self.watch(np.testing, "assert_allclose")
        self.watch(np, "allclose")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        errors = {**known, **{name: float(f"{error:.1e}") for name, error in self.largest.items()}}
        FILE.write_text(json.dumps(dict(sorted(errors.items())), indent=1) + "\n", encoding="utf-8")
