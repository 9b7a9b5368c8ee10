"""How easily can a classifier's training data be poisoned with correctly labelled pictures?"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Audit": "plan:Audit",
    "Budget": "descent:Budget",
    "Certify": "plan:Certify",
    "CertifySummary": "types:CertifySummary",
    "Collision": "attacks.collision:Collision",
    "Edit": "types:Edit",
    "Goal": "types:Goal",
    "Grid": "grid:Grid",
    "Images": "images:Images",
    "InputError": "types:InputError",
    "LogisticHead": "train:LogisticHead",
    "NeighbourVotes": "certified.neighbours:NeighbourVotes",
    "Net": "models:Net",
    "PaperHead": "train:PaperHead",
    "PartitionVotes": "certified.partitions:PartitionVotes",
    "RadiusVotes": "certified.radius:RadiusVotes",
    "StableHead": "certified.stable:StableHead",
    "Summary": "types:Summary",
    "View": "views:View",
    "ask": "answering:ask",
    "extract_features": "features:features",
    "load_data": "data:load",
    "load_grid": "grid:load_grid",
    "load_head": "certified.saved:load_head",
    "load_model": "models:load",
    "match_pictures": "match:match",
    "run_audit": "audit:run_audit",
    "run_certify": "certify:run_certify",
    "run_grid": "grid:run_grid",
    "sign_data": "provenance:sign",
    "verify_data": "provenance:verify",
    "wilson": "stats:wilson",
    "write_report": "report.page:write",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: torch takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'poisonfrogs' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f"poisonfrogs.{module}"), attribute)
