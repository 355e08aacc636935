"""A hypothesis strategy for valid ONNX models, composed from what the axis rules know.

Every move takes a map [N, C, H, W] or a sequence [N, T, D] that is already there and makes another; whatever nobody
reads in the end goes through a head of its own to a graph output, so that its channels could be removed.
"""

from tests.random_graphs.models import build, random_models

__all__ = ["build", "random_models"]
