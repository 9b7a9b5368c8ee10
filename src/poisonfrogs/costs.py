"""What an audit will cost, measured on a few pictures before it begins."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from poisonfrogs import end_to_end, models, pipeline
from poisonfrogs.data import DataSet, Images
from poisonfrogs.pictures import Unreadable
from poisonfrogs.plan import Audit, Trial
from poisonfrogs.trial import Setting


@dataclass(frozen=True)
class Costs:
    """Seconds: of a pass for one poison; of training a clean network, and a victim, where every layer is trained."""

    crafting: float
    clean: float = 0.0
    victim: float = 0.0

    def trial(self, audit: Audit) -> float:
        """Seconds of a trial, at most; the controls, which are shared, apart."""
        return self.crafting * audit.passes * audit.poisons + self.victim * (2 if audit.watermark else 1)


def ahead(setting: Setting, trials: Sequence[Trial]) -> float | None:
    """Seconds of so many trials of a prepared audit, at most; None where they cannot be told."""
    audit, scene = setting.audit, setting.scene
    if audit.victim:  # how long another's training takes, nobody knows
        return None
    bases = [base for trial in trials[:4] for base in trial.bases][:4]
    each = _pass(audit, scene.net, scene.train, bases) if bases else None
    if each is None:
        return None
    victim = setting.judge.seconds_a_victim() if isinstance(setting.judge, end_to_end.EndToEnd) else 0.0
    return Costs(each, victim=victim).trial(audit) * len(trials) / audit.workers


def costs(audit: Audit, dataset: DataSet) -> Costs | None:
    """What an audit of these pictures costs, before it is prepared; None where that cannot be told."""
    rows = range(min(4, len(dataset.train)))
    with pipeline.threads(audit.threads or max((os.cpu_count() or 1) // audit.workers, 1)):
        each = _pass(audit, pipeline.network(audit, untrained=audit.retrained), dataset.train, rows)
        if each is None:
            return None
        return Costs(each, *end_to_end.seconds_ahead(audit, dataset)) if audit.retrained else Costs(each)


def _pass(audit: Audit, net: models.Net, images: Images, rows: Sequence[int]) -> float | None:
    """Seconds of one pass for each of a few pictures; None where there is no memory or no gradient for it."""
    try:
        pictures = [torch.from_numpy(np.array(images[row])).permute(2, 0, 1) / 255 for row in rows]
        pixels = [picture.to(net.device).requires_grad_() for picture in pictures]
        started = time.perf_counter()
        net.extractor(audit.crafted_in)(pixels).sum().backward()
    except (RuntimeError, Unreadable):  # the trials themselves will say so, or the picture is left out
        return None
    return (time.perf_counter() - started) / len(rows)
