"""Canonical JSON values and the short hashes that name configurations, stages and data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LATER = {"later": True}


def canonical(value: Any) -> Any:
    """Returns plain JSON values of dataclasses, tuples and paths, for hashing and for records.

    A field with the metadata `LATER` is left out at its default: records made before the field existed keep
    their config hash.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: canonical(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("later") and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def digest(value: Any) -> str:
    """Returns a short hash of anything that `canonical` accepts."""
    return hashlib.sha256(json.dumps(canonical(value), sort_keys=True).encode()).hexdigest()[:12]
