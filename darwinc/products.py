"""Axes that are the product of two others (heads x dimensions, groups x channels): what a removal means for each.

Where an axis splits in two, or two merge into one, the cell at (row, column) dies exactly when its row or its column
does. Both factors may lose positions, independently of each other; the cells are then *derived* components that name
the units they die with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from darwinc.axis_flow import Flow
from darwinc.axis_record import FIXED, Ids, Product

Mask = npt.NDArray[np.bool_]
HELD = "splits or merges an axis of which a part must stay"
OTHERWISE = "splits or merges in a way that another place contradicts"
DEEPEST = 8
"""How many splits inside splits are followed."""


@dataclass(frozen=True, eq=False)
class Components:
    """What lives and dies together.

    Attributes:
        of: the component of every position id.
        blocked: which components must stay.
        owners: for every component, the units [K] that it dies with, padded with zeros; its own number in the plain
            case.
    """

    of: Ids
    blocked: Mask
    owners: Ids


def settle(flow: Flow) -> Components:
    """Find the components; ties and barriers that follow from products are added to the record."""
    while True:
        component, blocked = connect(flow)
        entries = _Entries.of(flow, component)
        if not _spread(flow, entries, blocked) and not _unify(flow, entries, component, blocked):
            owners = _owners(entries, blocked, len(blocked))
            if owners is not None:
                return Components(component, blocked, owners)
            for product in flow.products:
                flow.block(product.rows, product.node, OTHERWISE)


def connect(flow: Flow) -> tuple[Ids, Mask]:
    """The component of every id, and which components must stay.

    Those are the ones with a blocked position, and those that no computed value has: the kernel axes of a weight, and
    the parameters of an operator whose rule leaves them alone.
    """
    if flow.ties:
        first, second = (np.concatenate(side) for side in zip(*flow.ties, strict=True))
        flow.ties[:] = [(first, second)]
    else:
        first = second = np.zeros(0, np.int64)
    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(flow.count, flow.count))
    number, labels = connected_components(links, directed=False)
    component = labels.astype(np.int64)
    computed = np.zeros(number, np.bool_)
    for axis in {id(axis): axis for tracked in flow.values.values() for axis in tracked.axes}.values():
        if axis is not None and axis.strides != (0,):
            computed[component[axis]] = True
    for product in flow.products:
        for ids in (product.rows, product.columns, product.cells.ravel()):
            computed[component[ids]] = True
    blocked = ~computed
    blocked[component[FIXED]] = True
    for barrier in flow.barriers:
        blocked[component[barrier.ids]] = True
    return component, blocked


@dataclass(frozen=True, eq=False)
class _Entries:
    """Every cell of every product: position ids and components of the cell, its row and its column."""

    cell_id: Ids
    row_id: Ids
    column_id: Ids
    cell: Ids
    row: Ids
    column: Ids
    product: Ids

    @classmethod
    def of(cls, flow: Flow, component: Ids) -> _Entries:
        def joined(parts: list[Ids]) -> Ids:
            return np.concatenate(parts) if parts else np.zeros(0, np.int64)

        shapes = [product.cells.shape for product in flow.products]
        cell = joined([np.ascontiguousarray(product.cells).ravel() for product in flow.products])
        row = joined([np.repeat(p.rows, shape[1]) for p, shape in zip(flow.products, shapes, strict=True)])
        column = joined([np.tile(p.columns, shape[0]) for p, shape in zip(flow.products, shapes, strict=True)])
        number = np.repeat(np.arange(len(shapes)), [rows * columns for rows, columns in shapes])
        return cls(cell, row, column, component[cell], component[row], component[column], number)


def _spread(flow: Flow, entries: _Entries, blocked: Mask) -> bool:
    """What is held at one place holds elsewhere; a cell with one held factor dies with the other. Anything new?"""
    cell, row, column = (blocked[side] for side in (entries.cell, entries.row, entries.column))
    before = len(flow.ties)
    blocks = [
        (entries.row_id, cell & ~row),
        (entries.column_id, cell & ~column),
        (entries.cell_id, row & column & ~cell),
    ]
    held_before = len(flow.barriers)
    for ids, where in blocks:
        _hold(flow, entries, ids, where)
    free = ~cell
    for factor, ids, held in (
        (entries.column, entries.column_id, row & ~column),
        (entries.row, entries.row_id, column & ~row),
        (entries.row, entries.row_id, (entries.row == entries.column) & ~row),
    ):
        where = free & held & (factor != entries.cell)
        if where.any():
            flow.ties.append((entries.cell_id[where], ids[where]))
    # A cell that dies with its row alone, though its column could go too: then the column can't.
    for factor, other, ids in (
        (entries.row, entries.column, entries.column_id),
        (entries.column, entries.row, entries.row_id),
    ):
        _hold(flow, entries, ids, free & ~row & ~column & (factor == entries.cell) & (other != entries.cell))
    return len(flow.ties) > before or len(flow.barriers) > held_before


def _hold(flow: Flow, entries: _Entries, ids: Ids, where: Mask) -> None:
    """Positions that must stay, under the name of the node that splits or merges them."""
    for number in np.unique(entries.product[where]).tolist():
        flow.block(ids[where & (entries.product == number)], flow.products[number].node, HELD)


def _unify(flow: Flow, entries: _Entries, component: Ids, blocked: Mask) -> bool:
    """One cell seen through several products, or twice in one, dies with the same row and column. Anything new?"""
    before = len(flow.ties)
    _tie_twins(flow, component)
    if len(flow.ties) > before:
        return True
    free = np.flatnonzero(~blocked[entries.cell] & ~blocked[entries.row] & ~blocked[entries.column])
    free = free[entries.row[free] != entries.column[free]]
    order = free[np.lexsort((entries.column[free], entries.row[free], entries.cell[free]))]
    one, two = order[:-1], order[1:]
    same = entries.cell[one] == entries.cell[two]
    row, column = entries.row[one] != entries.row[two], entries.column[one] != entries.column[two]
    for ids, where in ((entries.row_id, same & row & ~column), (entries.column_id, same & column & ~row)):
        if where.any():
            flow.ties.append((ids[one[where]], ids[two[where]]))
    if len(flow.ties) > before:
        return True
    clashing = same & row & column
    given_up: set[int] = set()
    pairs = np.sort(np.stack([entries.product[one[clashing]], entries.product[two[clashing]]]), axis=0)
    for first, second in np.unique(pairs, axis=1).T.tolist():
        if first not in given_up:
            given_up.add(second)
    for number in given_up:
        _give_up_factor(flow, flow.products[number], component)
    return bool(given_up)


def _tie_twins(flow: Flow, component: Ids) -> None:
    """Products of the very same cells have the same factors."""
    seen: dict[tuple[tuple[int, ...], bytes], Product] = {}
    for product in flow.products:
        cells = component[product.cells]
        twin = seen.setdefault((cells.shape, cells.tobytes()), product)
        across = seen.get((cells.T.shape, np.ascontiguousarray(cells.T).tobytes())) if twin is product else None
        if twin is not product:
            _tie_new(flow, component, ((twin.rows, product.rows), (twin.columns, product.columns)))
        elif across is not None and across is not product:
            _tie_new(flow, component, ((across.rows, product.columns), (across.columns, product.rows)))


def _tie_new(flow: Flow, component: Ids, pairs: tuple[tuple[Ids, Ids], ...]) -> None:
    for one, two in pairs:
        where = component[one] != component[two]
        if where.any():
            flow.ties.append((one[where], two[where]))


def _give_up_factor(flow: Flow, product: Product, component: Ids) -> None:
    """Of two factors that can't both lose positions, the one with more of them may."""
    rows, columns = (len(np.unique(component[ids])) for ids in (product.rows, product.columns))
    flow.block(product.columns if rows > columns else product.rows, product.node, OTHERWISE)


def _owners(entries: _Entries, blocked: Mask, count: int) -> Ids | None:
    """The units that each component dies with [count, K]; None where splits contain each other."""
    free = ~blocked[entries.cell] & ~blocked[entries.row] & ~blocked[entries.column] & (entries.row != entries.column)
    cells, first = np.unique(entries.cell[free], return_index=True)
    rows, columns = entries.row[free][first], entries.column[free][first]
    owners = np.arange(count, dtype=np.int64)[:, None]
    for _ in range(DEEPEST):
        made = _distinct(np.concatenate([owners[rows], owners[columns]], axis=1)) if len(cells) else owners[:0]
        if made.shape[1] <= owners.shape[1] and np.array_equal(_padded(made, owners.shape[1]), owners[cells]):
            return owners
        wide = _padded(owners, max(made.shape[1], 1))
        wide[cells] = _padded(made, wide.shape[1])
        owners = wide
    return None if len(cells) else owners


def _padded(owners: Ids, width: int) -> Ids:
    return np.pad(owners, ((0, 0), (0, max(0, width - owners.shape[1]))))


def _distinct(owners: Ids) -> Ids:
    """Each row's owners once, the padding last, as narrow as possible."""
    ordered = -np.sort(-owners, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0
    ordered = -np.sort(-ordered, axis=1)
    return ordered[:, : max(1, int((ordered > 0).sum(axis=1).max(initial=1)))]
