"""Operators of the domain ai.onnx.ml: those of classic models that give and take numbers."""

from __future__ import annotations

from itertools import takewhile
from typing import cast

import torch

from .call import Call, Rule

AVERAGE, SUM, MINIMUM, MAXIMUM = range(4)
MEMBER = 6
COMPARISONS = (torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne)


def array_feature_extractor(call: Call) -> torch.Tensor:
    """The columns of x [..., columns] at these positions."""
    x = call.first if call.first.ndim > 1 else call.first[None]
    return x.index_select(-1, call.tensor(1).reshape(-1))


def binarizer(call: Call) -> torch.Tensor:
    return (call.first > call.real("threshold", 0.0)).to(call.first.dtype)


def tree_ensemble(call: Call) -> torch.Tensor:
    """What the leaves say that x [N, columns] reaches, all trees together: [N, targets].

    A gradient reaches neither x, by which the leaves are chosen, nor the leaves, which are attributes.
    """
    if call.integer("post_transform", 0):
        raise call.unsupported(f"post_transform = {call.integer('post_transform', 0)}")
    x, aggregate = call.first, call.integer("aggregate_function", SUM)
    splits, weights = (cast(torch.Tensor, call.attributes[name]).to(x) for name in ("nodes_splits", "leaf_weights"))
    targets = torch.tensor(call.listed("leaf_targetids"), device=x.device)
    leaves = torch.stack([_leaf(call, x, splits, root) for root in call.listed("tree_roots") or ()], 1)
    out = x.new_zeros(len(x), call.integer("n_targets", 1))
    reduction = {MINIMUM: "amin", MAXIMUM: "amax"}.get(aggregate, "sum")
    out = out.scatter_reduce(1, targets[leaves], weights[leaves], reduction, include_self=reduction == "sum")
    return out / leaves.shape[1] if aggregate == AVERAGE else out


def _leaf(call: Call, x: torch.Tensor, splits: torch.Tensor, root: int) -> torch.Tensor:
    """The leaf of one tree that each row reaches [N]; a tree of one leaf is a node whose branches are the same."""
    features = torch.tensor(call.listed("nodes_featureids"), device=x.device)
    holds = _comparisons(call, x[:, features], splits)
    on_true, on_false, true_is_leaf, false_is_leaf = (
        torch.tensor(call.listed(name), device=x.device)
        for name in ("nodes_truenodeids", "nodes_falsenodeids", "nodes_trueleafs", "nodes_falseleafs")
    )
    place = torch.full((len(x),), root, device=x.device)
    arrived = torch.zeros_like(place, dtype=torch.bool)
    while not bool(arrived.all()):
        node = torch.where(arrived, root, place)
        yes = holds.gather(1, node[:, None])[:, 0]
        onward, ends = (
            torch.where(yes, on_true[node], on_false[node]),
            torch.where(yes, true_is_leaf[node], false_is_leaf[node]),
        )
        place, arrived = torch.where(arrived, place, onward), arrived | (ends > 0)
    return place


def _comparisons(call: Call, values: torch.Tensor, splits: torch.Tensor) -> torch.Tensor:
    """Which nodes take their true branch, row by row [N, nodes]."""
    modes = cast(torch.Tensor, call.attributes["nodes_modes"]).tolist()
    listed = call.attributes.get("membership_values")
    members = iter(listed.tolist() if isinstance(listed, torch.Tensor) else ())
    tracks = call.listed("nodes_missing_value_tracks_true") or (0,) * len(modes)
    found = []
    for node, (mode, track) in enumerate(zip(modes, tracks, strict=True)):
        value = values[:, node]
        if mode == MEMBER:
            # The sets stand one after the other, each closed by NaN.
            inside = torch.tensor(list(takewhile(lambda member: member == member, members)), device=value.device)
            holds = torch.isin(value, inside.to(value.dtype))
        else:
            holds = COMPARISONS[mode](value, splits[node])
        found.append(holds | value.isnan() if track else holds)
    return torch.stack(found, 1)


RULES: dict[str, Rule] = {
    "ArrayFeatureExtractor": array_feature_extractor,
    "Binarizer": binarizer,
    "TreeEnsemble": tree_ensemble,
}
