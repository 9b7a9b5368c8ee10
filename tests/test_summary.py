"""What the rows of a journal come to, against figures that were worked out by hand."""

from __future__ import annotations

import pytest

from poisonfrogs.stats import wilson
from poisonfrogs.summary import counted


def test_the_figures_of_a_journal_by_hand() -> None:
    """Three eligible targets, of which one fell and one failed, and one that the control has wrong already."""
    columns = {
        "target_id": ["a", "b", "c", "d"],
        "base_class": ["blue"] * 4,
        "eligible": [True, True, True, False],
        "control_wrong": [False, False, False, True],
        "success": [True, False, False, False],
        "failed": [False, False, True, False],
        "as_jpeg_success": [True, False, None, True],
        "watermark_only_success": [True, False, None, True],
        "probabilities": [[0.8, 0.2], [0.4, 0.6], [0.5, 0.5], [0.99, 0.01]],
        "control_probabilities": [[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.97, 0.03]],
        "accuracy": [0.9, 0.9, 0.5, 0.8],
        "control_accuracy": [1.0, 0.8, 1.0, 1.0],
        "passes": [10, 30, 0, 90],
        "linf": [[0.03], [0.01], [0.0], [0.02]],
        "linf_from_base": [[0.2], [0.4], [0.6], [0.8]],
        "auditor": [
            {"poisons": [[0.9, 0.1]], "bases": [[0.9, 0.1]]},
            {"poisons": [[0.2, 0.8]], "bases": [[0.7, 0.3]]},
            {"poisons": [[0.6, 0.4]], "bases": [[0.6, 0.4]]},
            {"poisons": [[0.3, 0.7]], "bases": [[0.9, 0.1]]},
        ],
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    found = counted(rows, ["blue", "red"])
    assert (found["n_trials"], found["n_eligible"], found["n_success"], found["n_failed_trials"]) == (4, 3, 1, 1)
    assert found["ci95"] == pytest.approx(wilson(1, 3), abs=1e-6)
    assert (found["median_confidence"], found["control_median_confidence"]) == (0.5, 0.2)  # of the eligible
    assert (found["n_as_jpeg"], found["n_as_jpeg_success"], found["watermark_only_rate"]) == (2, 1, 0.5)
    # 0.1, -0.1 and 0.2: the victim that could not be trained has no accuracy to lose
    assert (found["mean_accuracy_drop"], found["worst_accuracy_drop"]) == (0.066667, 0.2)
    assert (found["clean_accuracy"], found["control_rate"]) == (0.95, 0.25)
    assert (found["median_passes"], found["median_linf"], found["median_linf_from_base"]) == (20.0, 0.015, 0.5)
    told = found["auditor"]
    assert told
    assert (told["n_poisons"], told["n_agreed"], told["agreement"], told["n_bases_agreed"]) == (4, 2, 0.5, 4)
    assert told["ci95"] == pytest.approx(wilson(2, 4), abs=1e-6)
