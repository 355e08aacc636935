"""Positions that die together in several blocks (heads, groups of a convolution), each block by an order of its own.

Where an axis is blocks x positions, the analysis lets the same position of every block go with one unit. As long as
nothing tells the positions of a block apart by their place, every block may give up another one, in the same number:
a unit then stands for the least fit position of each block, the next for the second, and so on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc.axis_record import Axis, ConstantUse, Ids, Reader, is_fixed
from darwinc.axis_rules import ELEMENTWISE
from darwinc.channels import Channels

SPLITTERS = frozenset({"Attention", "Conv", "ConvTranspose", "Flatten", "FusedConv", "MultiHeadAttention", "Reshape"})
"""Operators that split an axis, or merge two, without looking at the places within a block."""

SEPARABLE = frozenset(ELEMENTWISE) | {
    "Attention", "Clip", "Concat", "DequantizeLinear", "Dropout", "Expand", "FastGelu", "Flatten", "FusedMatMul",
    "Gather", "LogSoftmax", "MatMul", "Pad", "QuantizeLinear", "QuickGelu", "ReduceL1", "ReduceL2", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Reshape", "Shape", "Size", "Slice", "Softmax", "Split",
    "Squeeze", "Tile", "Transpose", "TransposeMatMul", "Unsqueeze",
}  # fmt: skip
"""Operators that treat every block by itself, whatever the order within it; sums over blocks aside, which are looked
for. (What reduces or normalises over positions holds them already, unless the order doesn't matter.)"""

SIZES = frozenset({"Shape", "Size"})
CONVOLUTIONS = frozenset({"Conv", "FusedConv"})


@dataclass(frozen=True, eq=False)
class Blocks:
    """One group of units [C] of which each stands for one position in every block.

    `rows` [R] are the units that stand for whole blocks. `cells` [M] are the components that are at some position of
    some block, `row` and `column` [M] say where: indices into `rows` and `units`.
    """

    units: Ids
    rows: Ids
    cells: Ids
    row: Ids
    column: Ids

    def table(self) -> Ids:
        """A component for each position of each block [R, C]."""
        found = np.zeros((len(self.rows), len(self.units)), np.int64)
        found[self.row, self.column] = self.cells
        return found


def matched(channels: Channels, losses: npt.NDArray[np.float64]) -> Channels:
    """The same channels, with units that stand for positions of the same rank in each block.

    The rank is that of `losses` [channels.count], the loss of each component as if it died by itself.
    """
    found = find_blocks(channels)
    if not found:
        return channels
    owners = channels.owners.copy()
    for blocks in found:
        lost = np.zeros((len(blocks.rows), len(blocks.units)))
        np.add.at(lost, (blocks.row, blocks.column), losses[blocks.cells])
        rank = np.argsort(np.argsort(lost, axis=1, kind="stable"), axis=1)
        pairs = np.stack([blocks.rows[blocks.row], blocks.units[rank[blocks.row, blocks.column]]])
        owners[blocks.cells] = 0
        owners[blocks.cells, 0], owners[blocks.cells, 1] = pairs.max(axis=0), pairs.min(axis=0)
    return replace(channels, owners=owners)


def find_blocks(channels: Channels) -> list[Blocks]:
    """The groups whose units may stand for another position in every block; takes time linear in the analysis."""
    if channels.owners.shape[1] < 2:
        return []
    return _Search(channels).run()


class _Search:
    """Finds candidates by how axes split, and bars those of which something sees more than a set of positions."""

    def __init__(self, channels: Channels) -> None:
        self._channels, self._flow = channels, channels.flow
        self._group_of = np.full(channels.count, -1, np.int64)
        for number, group in enumerate(channels.groups):
            self._group_of[group.units] = number
        self._width = (channels.owners > 0).sum(axis=1)
        self._row_of, self._column_of = np.zeros((2, channels.count), np.int64)
        self._barred: set[int] = set()
        self._found: dict[int, Blocks] = {}
        self._rows: dict[int, int] = {}
        """The group of blocks of each group of positions."""
        self._candidates: dict[int, set[int]] = defaultdict(set)
        """The other way round."""
        self._seen: dict[int, Mapping[int, int]] = {}

    def run(self) -> list[Blocks]:
        self._read_products()
        self._tabulate()
        if self._found:
            self._look_at_computed_values()
            self._look_at_constants()
            self._look_at_selections()
            self._look_at_integers()
        return [blocks for group, blocks in self._found.items() if group not in self._barred]

    def _bar(self, units: Ids) -> None:
        self._barred.update(np.unique(self._group_of[units]).tolist())

    # Candidates ------------------------------------------------------------------------------------------------------

    def _read_products(self) -> None:
        """Which component is at which position of which block. Positions vary fastest, or an order would show."""
        component, owners = self._channels.component, self._channels.owners
        for product in self._flow.products:
            cell = component[product.cells]
            row = np.broadcast_to(component[product.rows][:, None], cell.shape)
            column = np.broadcast_to(component[product.columns], cell.shape)
            self._bar(row[(cell > 0) & (cell != row) & (self._width[row] == 1)])
            if product.node.op_type not in SPLITTERS:
                self._bar(column)
            named = owners[cell]
            pair = (self._width[cell] == 2) & (row > 0) & (column > 0) & (row != column)
            pair &= (named == row[..., None]).any(axis=-1) & (named == column[..., None]).any(axis=-1)
            self._row_of[cell[pair]], self._column_of[cell[pair]] = row[pair], column[pair]

    def _tabulate(self) -> None:
        owners, groups = self._channels.owners, self._channels.groups
        derived = np.flatnonzero(self._width > 1)
        plain = (self._width[derived] == 2) & (self._column_of[derived] > 0)
        self._bar(owners[derived[~plain]])
        cells = derived[plain]
        cells = cells[np.argsort(self._group_of[self._column_of[cells]], kind="stable")]
        numbers, starts = np.unique(self._group_of[self._column_of[cells]], return_index=True)
        for number, own in zip(numbers.tolist(), np.split(cells, starts[1:]), strict=True):
            rows, row = np.unique(self._row_of[own], return_inverse=True)
            blocks = np.unique(self._group_of[rows])
            if number < 0 or number in self._barred or len(blocks) > 1 or blocks[0] < 0:
                continue
            units = np.sort(groups[number].units)
            column = np.searchsorted(units, self._column_of[own])
            pairs = len(np.unique(row * len(units) + column))
            if len(rows) == len(groups[blocks[0]]) and pairs == len(rows) * len(units):
                self._found[number] = Blocks(units, rows, own, row, column)
                self._rows[number] = int(blocks[0])
                self._candidates[int(blocks[0])].add(number)

    # What sees positions ---------------------------------------------------------------------------------------------

    def _units_on(self, axis: Axis) -> Mapping[int, int]:
        """How many units of each group sit on an axis, cells aside."""
        if axis is None or is_fixed(axis):
            return {}
        if id(axis) not in self._seen:
            present = np.unique(self._channels.component[axis])
            groups, counts = np.unique(self._group_of[present[self._width[present] == 1]], return_counts=True)
            self._seen[id(axis)] = dict(zip(groups.tolist(), counts.tolist(), strict=True))
        return self._seen[id(axis)]

    def _positions(self, axes: Iterable[Axis]) -> set[int]:
        """The candidates with positions on these axes."""
        return {group for axis in axes for group in self._units_on(axis) if group in self._found}

    def _look_at_computed_values(self) -> None:
        """Every value has one axis of blocks beside that of positions, and every operator goes block by block."""
        carried: dict[str, set[int]] = {}
        for name, tracked in self._flow.values.items():
            present = self._positions(tracked.axes)
            if present:
                carried[name] = present
            self._bar_doubled(tracked.axes)
            self._barred |= {group for group in present if not self._is_by_block(group, tracked.axes)}
        summed: dict[ir.Node, set[int]] = {}
        read = [(reader.node, reader.ids) for reader in self._flow.readers]
        met = [(contraction.node, contraction.ids) for contraction in self._flow.contractions]
        for node, ids in (*read, *met):
            summed.setdefault(node, set()).update(self._units_on(ids))
        for node in self._channels.nodes:
            present = set().union(*(carried.get(str(value.name), ()) for value in node.inputs if value is not None))
            for group in present - self._barred:
                mixes = self._rows[group] in summed.get(node, ()) or node.op_type not in SEPARABLE
                if mixes or not (node.op_type in SIZES or self._stays_by_block(group, node)):
                    self._barred.add(group)

    def _bar_doubled(self, axes: Sequence[Axis]) -> None:
        """Where blocks are on two axes they meet each other, position by position."""
        counts = Counter(group for axis in axes for group in self._units_on(axis))
        for rows in (group for group, count in counts.items() if count > 1):
            self._barred |= self._candidates.get(rows, set())

    def _is_by_block(self, group: int, axes: Sequence[Axis]) -> bool:
        """Are all blocks on an axis of their own?"""
        rows = [axis for axis in axes if self._rows[group] in self._units_on(axis)]
        whole = [self._units_on(axis)[self._rows[group]] == len(self._found[group].rows) for axis in rows]
        return whole == [True] and group not in self._units_on(rows[0])

    def _stays_by_block(self, group: int, node: ir.Node) -> bool:
        """Does every output have the blocks on one axis, or the positions of all blocks in a row?"""
        for output in node.outputs:
            tracked = self._flow.values.get(str(output.name))
            axes = () if tracked is None else tracked.axes
            if not any(self._rows[group] in self._units_on(axis) or self._has_cells(group, axis) for axis in axes):
                return False
        return True

    def _has_cells(self, group: int, axis: Axis) -> bool:
        return axis is not None and bool(
            (self._group_of[self._column_of[self._channels.component[axis]]] == group).any()
        )

    def _look_at_constants(self) -> None:
        """Only the weight of a grouped convolution may lose other positions in every block."""
        grouped = {(reader.node, reader.weight): reader for reader in self._flow.readers if reader.groups > 1}
        for use in self._flow.uses:
            for axis, ids in enumerate(use.axes):
                for group in self._positions((ids,)):
                    if not self._is_grouped_weight(use, axis, grouped.get((use.node, use.index))):
                        self._barred.add(group)
        for fill in self._flow.fills:
            self._barred |= self._positions(fill.axes)

    def _is_grouped_weight(self, use: ConstantUse, axis: int, reader: Reader | None) -> bool:
        if reader is None or not reader.weight_axis == axis == 1 or use.node.op_type not in CONVOLUTIONS:
            return False
        own = self._channels.component[use.axes[axis]]
        cells = self._channels.component[reader.ids].reshape(reader.groups, -1)
        return bool(((self._column_of[cells] == own) | (own == 0)).all())

    def _look_at_selections(self) -> None:
        """An axis that has some of a block's positions, or some more often, loses more or less by another order."""
        values = (axis for tracked in self._flow.values.values() for axis in tracked.axes)
        axes = {id(axis): axis for axis in (*values, *(ids for use in self._flow.uses for ids in use.axes))}
        for axis in axes.values():
            present = np.zeros(0, np.int64) if axis is None or is_fixed(axis) else self._channels.component[axis]
            present = present[self._column_of[present] > 0]
            for group in set(self._group_of[self._column_of[present]].tolist()) & self._found.keys() - self._barred:
                own = present[self._group_of[self._column_of[present]] == group]
                pairs, counts = np.unique(
                    np.stack([self._row_of[own], self._column_of[own]]), axis=1, return_counts=True
                )
                _, first, width = np.unique(pairs[0], return_index=True, return_counts=True)
                even = counts == np.repeat(counts[first], width)
                if not even.all() or (width < len(self._found[group].units)).any():
                    self._barred.add(group)

    def _look_at_integers(self) -> None:
        """Sizes count positions, wherever in a block; indices and bounds name them."""
        for follower in self._flow.followers:
            for group in self._positions((follower.ids,)):
                present = self._channels.component[follower.ids]
                _, counts = np.unique(present[self._group_of[present] == group], return_counts=True)
                if len(counts) < len(self._found[group].units) or counts.min() < counts.max():
                    self._barred.add(group)
        for picks in self._flow.picks:
            self._barred |= self._positions((picks.before,))
