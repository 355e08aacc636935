"""What sizes an axis can come to, when any units of any groups go: never none, and never one that no integer says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from darwinc.axis_flow import Flow
from darwinc.axis_record import Ids, is_fixed

if TYPE_CHECKING:
    from darwinc.channels import Channels

VANISHES = "is a selection of which nothing might be left"
DIVIDES_BADLY = "its size is computed in the graph in a way that can't be followed"


def hold_what_goes_wrong(flow: Flow, channels: Channels) -> bool:
    """Keep axes that could lose their last position, or come to a size that can't be written down. Are there any?"""
    kinds = _Kinds(channels)
    return _hold_what_may_vanish(flow, channels, kinds) | _hold_what_divides_badly(flow, kinds)


class _Kinds:
    """Positions by the groups that they die with."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._group_of = np.full(channels.count, -1, np.int64)
        for number, group in enumerate(channels.groups):
            self._group_of[group.units] = number
        self._sizes = np.array([*map(len, channels.groups), 1])

    def of(self, owners: Ids) -> tuple[Ids, Ids]:
        """How many rows of owners [n, K] each combination of groups has, and how many its units could make up."""
        kinds, counts = np.unique(np.sort(self._group_of[owners], axis=1), axis=0, return_counts=True)
        return counts, self._sizes[kinds].prod(axis=1)

    def owners(self, axis: Ids) -> npt.NDArray[np.int64]:
        """The units that each position dies with."""
        return self._channels.owners[self._channels.component[axis]]


def _hold_what_may_vanish(flow: Flow, channels: Channels, kinds: _Kinds) -> bool:
    """Axes that may lose their last position though no group loses its last unit.

    Positions that die with a head or with a dimension, of which an axis has a selection, may be those of which every
    one has either dead. With all combinations of some groups one lives.
    """
    derived = np.asarray(channels.owners[:, 1:].any(axis=1))
    if not derived.any():
        return False
    makers = {str(output.name): node for node in channels.nodes for output in node.outputs}
    seen: set[int] = set()
    held = False
    for name, value in flow.values.items():
        for axis in value.axes:
            if axis is None or id(axis) in seen or not derived[channels.component[axis]].any():
                continue
            seen.add(id(axis))
            present, complete = kinds.of(np.unique(kinds.owners(axis), axis=0))
            if (present < complete).all():
                flow.block(axis, makers.get(name), VANISHES)
                held = True
    return held


def _hold_what_divides_badly(flow: Flow, kinds: _Kinds) -> bool:
    """Axes whose size is a stored number times something that stays, and that may come to another multiple of it."""
    held = False
    for follower in flow.followers:
        if follower.divisor == 1 or is_fixed(follower.ids):
            continue
        owners = kinds.owners(follower.ids)
        if not owners.any():
            continue
        present, complete = kinds.of(owners)
        if (present % (complete * follower.divisor)).any():
            flow.block(follower.ids, follower.node, DIVIDES_BADLY)
            held = True
    return held
