"""An inspection as words: a headline, and listings for the console to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from darwinc.console import Listing
from darwinc.inspection import BarrierFacts, GroupFacts, Holder, Inspection
from darwinc.pages.texts import count_text

MOST_GROUPS = 12
MOST_HOLDERS = 8
MOST_NAMES = 4


def headline(found: Inspection) -> str:
    """The answers to most questions: how large, how much of it can go, how much can't."""
    cost = found.cost
    size = (
        f"{found.path}: opset {found.opset}, {found.nodes:,} nodes, {cost.parameters:,} parameters, {cost.macs:,} MACs"
    )
    if found.nothing is not None:
        return f"{size}\nno channel can be removed: {found.nothing}"
    able = [group for group in found.groups if group.may_lose]
    which = "" if len(able) == len(found.groups) else f" (of {len(found.groups)}; --protect and --only keep the others)"
    noun = "group" if len(able) == 1 else "groups"
    lines = (
        size,
        f"prunable: {share_text(found.prunable_share)} of the parameters lie on channels that can be removed, "
        f"{sum(group.channels for group in able):,} channels in {len(able)} {noun}{which}",
        f"reachable: {share_text(found.reachable_sparsity)} of the parameters and {share_text(found.reachable_macs)} "
        f"of the MACs with at most 90 % of a group; {share_text(found.prunable_sparsity)} of the parameters with all "
        "but one channel of each",
        f"held: {share_text(1 - found.prunable_share)}, {found.held_parameters:,} parameters",
    )
    return "\n".join(lines)


def listings(found: Inspection, *, everything: bool) -> Iterator[Listing]:
    """The groups, what holds parameters, and with `everything` every barrier by itself; empty ones are left out."""
    if found.groups:
        yield groups_listing(found.groups, everything=everything)
    if found.held:
        yield held_listing(found, everything=everything)
    if everything and found.barriers:
        yield barriers_listing(found.barriers)


def groups_listing(groups: Sequence[GroupFacts], *, everything: bool) -> Listing:
    """Channel groups, those that hold most of the parameters first; with `everything` their tensors too."""
    ranked = sorted(groups, key=lambda group: -group.parameters)
    shown = ranked if everything else ranked[:MOST_GROUPS]
    limit = None if everything else MOST_NAMES
    rows = [
        (
            group.id if group.may_lose else f"{group.id} (stays whole)",
            f"{group.channels:,}",
            f"{group.multiple}",
            f"{share_text(group.parameters_share)}, {count_text(group.parameters_per_channel)} each",
            f"{share_text(group.macs_share)}, {count_text(group.macs_per_channel)} each",
            some([str(node) for node in group.nodes], limit),
            *([", ".join(group.tensors)] if everything else []),
        )
        for group in shown
    ]
    return Listing(
        "channel groups: a channel leaves all that its group contains at once (each: one channel)",
        (
            "group",
            "channels>",
            "multiple>",
            "parameters",
            "MACs",
            "contains",
            *(["tensors"] if everything else []),
        ),
        rows,
        "{0}: {1} channels, left in multiples of {2}; parameters {3}; MACs {4}: {5}"
        + ("; tensors {6}" if everything else ""),
        _more(len(ranked) - len(shown), "group"),
    )


def held_listing(found: Inspection, *, everything: bool) -> Listing:
    """What holds parameters, by operator and reason."""
    shown = found.held if everything else found.held[:MOST_HOLDERS]
    return Listing(
        "what holds parameters (rows overlap; alone: this is all that keeps them along one of their axes)",
        ("held>", "share>", "alone>", "by", "why"),
        [
            (
                f"{holder.parameters:,}",
                share_text(holder.parameters / max(found.cost.parameters, 1)),
                f"{holder.parameters_alone:,}",
                _who(holder),
                holder.why,
            )
            for holder in shown
        ],
        "{0} parameters ({1}, {2} alone): {3}: {4}",
        _more(len(found.held) - len(shown), "reason"),
    )


def barriers_listing(barriers: Sequence[BarrierFacts]) -> Listing:
    """Every node that keeps channels."""
    return Listing(
        "barriers (where none is held, the weight can lose positions of its other axis)",
        ("held>", "alone>", "node", "why"),
        [
            (f"{row.parameters:,}", f"{row.parameters_alone:,}", _named(row.node, row.op_type), row.why)
            for row in barriers
        ],
        "{0} parameters ({1} alone): {2}: {3}",
    )


def _who(holder: Holder) -> str:
    if holder.nodes > 1:
        return f"{holder.nodes} {holder.op_type}, such as {holder.example}"
    return _named(holder.example, holder.op_type)


def _named(node: str, op_type: str) -> str:
    return f"{node} ({op_type})" if op_type else "no node"


def _more(count: int, noun: str) -> str:
    return f"… and {count} more {noun}{'s' if count > 1 else ''} (see --all or --json)" if count else ""


def some(names: Sequence[str], limit: int | None) -> str:
    """The first few, and how many more there are."""
    if limit is None or len(names) <= limit + 1:
        return ", ".join(names)
    return f"{', '.join(names[:limit])} … and {len(names) - limit} more"


def share_text(share: float) -> str:
    """0.503 -> "50.3 %"; what is almost nothing or almost all is not rounded to it."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.3g} %"
