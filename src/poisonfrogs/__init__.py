"""How easily can a classifier's training data be poisoned with correctly labelled pictures?"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Audit": "plan",
    "Budget": "descent",
    "Collision": "attacks.collision",
    "Edit": "types",
    "Goal": "types",
    "Images": "data",
    "InputError": "types",
    "LogisticHead": "train",
    "Net": "models",
    "PaperHead": "train",
    "View": "views",
    "features": "features",
    "load_data": "data",
    "load_model": "models",
    "run_audit": "audit",
    "wilson": "stats",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: torch takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'poisonfrogs' has no attribute {name!r}")
    module = import_module(f"poisonfrogs.{_HOME[name]}")
    return getattr(module, name.removesuffix("_data").removesuffix("_model") if name.startswith("load_") else name)
