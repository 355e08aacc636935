"""Which channel groups may lose channels: those that the user's patterns leave, and what holds the others."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from darwinc import graph
from darwinc.channels import Channels, barriers
from darwinc.errors import UsageError
from darwinc.plain_words import PlainWords


def eligible(channels: Channels, protect: Iterable[str], only: Iterable[str]) -> list[bool]:
    """Which groups may lose channels, by patterns of group ids, tensor names and names of the nodes that read them.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    if not tuple(protect) and not tuple(only):
        return [True] * len(channels.groups)
    names = _names(channels)
    protected = _matching(names, tuple(protect), "--protect")
    wanted = _matching(names, tuple(only), "--only") if tuple(only) else [True] * len(names)
    return [may and not must_not for may, must_not in zip(wanted, protected, strict=True)]


def _names(channels: Channels) -> list[set[str]]:
    """What each group answers to: its id, its tensors and the nodes that read them."""
    readers: dict[str, set[str]] = {}
    for use in channels.flow.uses:
        readers.setdefault(str(use.value.name), set()).add(graph.label(use.node))
    found = []
    for group in channels.groups:
        tensors = {member.tensor for member in group.members}
        found.append({group.id} | tensors | {node for tensor in tensors for node in readers.get(tensor, ())})
    return found


def _matching(names: list[set[str]], patterns: tuple[str, ...], option: str) -> list[bool]:
    matched = [False] * len(names)
    for pattern in patterns:
        hits = [any(fnmatch.fnmatchcase(name, pattern) for name in group) for group in names]
        if not any(hits):
            raise UsageError(
                f"{option} {pattern!r} matches no group, tensor or node with channels; `darwinc inspect` lists them."
            )
        matched = [old or new for old, new in zip(matched, hits, strict=True)]
    return matched


def what_holds(channels: Channels) -> str:
    """The barriers in half a sentence, in the words of `darwinc inspect`."""
    reasons: dict[str, list[str]] = {}
    words = PlainWords(channels)
    for barrier in barriers(channels):
        reasons.setdefault(words.why(barrier.node, barrier.reason), []).append(
            f"{barrier.node.op_type} {graph.label(barrier.node)!r}" if barrier.node is not None else "the graph"
        )
    bodies = [node for node in channels.nodes if graph.subgraphs(node)]
    if not reasons and bodies:
        name = f"{bodies[0].op_type} {graph.label(bodies[0])!r}"
        return f"its weights sit in the subgraphs of {name}, which are left as they are"
    if not reasons:
        return "it has no convolution or matrix product with channels of its own"
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))[:3]
    return "channels are held by " + ", ".join(
        f"{nodes[0]} ({reason}{f', and {len(nodes) - 1} more' if len(nodes) > 1 else ''})" for reason, nodes in ranked
    )
