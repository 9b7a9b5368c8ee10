"""Classifiers on frozen features whose every prediction says how many training examples it takes to change it.

scikit-learn estimators on any embeddings. What is proved, and what is assumed: docs/certified.md.
"""

from poisonfrogs.certified.classifier import Answers, CertifiedClassifier
from poisonfrogs.certified.neighbours import NeighbourVotes
from poisonfrogs.certified.partitions import PartitionVotes
from poisonfrogs.certified.radius import RadiusVotes
from poisonfrogs.certified.stable import StableHead

__all__ = ["Answers", "CertifiedClassifier", "NeighbourVotes", "PartitionVotes", "RadiusVotes", "StableHead"]
