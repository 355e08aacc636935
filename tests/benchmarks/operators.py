"""Operator conformance of the torch twin: the onnx package's own cases, operator by operator.

    python -m tests.benchmarks.operators

Gradients are checked in double precision against finite differences, in every case that has floats on both sides.
Cases are models of one node; the duplicates in which a function's body takes the operator's place are counted apart.
Out of scope are strings, sequences, optionals, random and training operators. The tables are in Markdown.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable

import onnx

from tests.node_cases import KNOWN, NodeCase, complaint, node_cases
from tests.node_gradients import NOT_BY, NOT_DIFFERENTIABLE, differentiable, gradient_complaint

OLDER = 16


def main() -> int:
    """Print the tables; the exit code is 1 where a case fails that isn't known to."""
    found = node_cases()
    scope = [case for case in found if not case.out_of_scope]
    complaints = {case.name: complaint(case) for case in scope}
    single = [case for case in scope if not case.is_duplicate]
    print(f"onnx {onnx.__version__}\n")
    gradients = {case.name: gradient_complaint(case) for case in single if differentiable(case)}
    print_operators(single, complaints, gradients)
    print_totals(found, single, complaints)
    print_reasons(scope, complaints)
    print_gradients(single, gradients)
    return 1 if any(complaints[case.name] and case.original not in KNOWN for case in scope) else 0


def print_operators(single: Iterable[NodeCase], complaints: dict[str, str], gradients: dict[str, str]) -> None:
    """A row for each operator."""
    print("| operator | cases | passed | gradients checked | right |\n| --- | ---: | ---: | ---: | ---: |")
    for operator, names in sorted(by_operator(single).items()):
        found = [not gradients[name] for name in names if name in gradients]
        derived = f"{len(found)} | {sum(found)}" if found else "- | -"
        print(f"| {operator} | {len(names)} | {sum(not complaints[name] for name in names)} | {derived} |")


def print_totals(found: Iterable[NodeCase], single: list[NodeCase], complaints: dict[str, str]) -> None:
    """How many cases and operators there are, and how many pass."""
    everything = [case for case in found if not case.is_duplicate]
    duplicates = [case for case in found if case.is_duplicate and case.name in complaints]
    operators = by_operator(single)
    whole = [operator for operator, names in operators.items() if not any(complaints[name] for name in names)]
    older = [operator for operator in operators if is_older(operator)]
    apart = Counter(case.out_of_scope for case in everything if case.out_of_scope)
    told = ", ".join(f"{count} {reason}" for reason, count in apart.most_common())
    rows = [
        (f"cases in scope (out of it: {told})", len(single), passing(single, complaints)),
        ("all cases, those out of scope too", len(everything), passing(single, complaints)),
        ("duplicates by function bodies", len(duplicates), passing(duplicates, complaints)),
        ("operators (all their cases pass)", len(operators), len(whole)),
        (f"operators known at opset {OLDER}", len(older), len(set(older) & set(whole))),
    ]
    print("\n| in all | there are | pass |\n| --- | ---: | ---: |")
    print("\n".join(f"| {what} | {count} | {passed} ({passed / count:.1%}) |" for what, count, passed in rows if count))


def print_reasons(scope: Iterable[NodeCase], complaints: dict[str, str]) -> None:
    """What doesn't pass, and why."""
    print("\n| case | what happens | why |\n| --- | --- | --- |")
    for case in scope:
        if complaints[case.name]:
            happened = " ".join(complaints[case.name].split()).replace("|", "/")[:120]
            print(f"| {case.name} | {happened} | {KNOWN.get(case.original, 'not known')} |")


def print_gradients(single: Iterable[NodeCase], gradients: dict[str, str]) -> None:
    """How many operators have right gradients, and why the others don't."""
    operators = by_operator(case for case in single if case.name in gradients)
    right = [operator for operator, names in operators.items() if not any(gradients[name] for name in names)]
    print(f"\nGradients are right in all cases of {len(right)} of {len(operators)} operators ({len(gradients)} cases).")
    print("\n| operator | gradients |\n| --- | --- |")
    for operator, names in operators.items():
        happened = next((gradients[name] for name in names if gradients[name]), "")
        if happened:
            print(f"| {operator} | {NOT_DIFFERENTIABLE.get(operator, ' '.join(happened.split())[:120])} |")
    for (operator, position), reason in NOT_BY.items():
        print(f"| {operator} by operand {position} | {reason} |")


def by_operator(cases: Iterable[NodeCase]) -> dict[str, list[str]]:
    """The names of the cases of each operator."""
    found: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        found[case.operator].append(case.name)
    return found


def passing(cases: Iterable[NodeCase], complaints: dict[str, str]) -> int:
    return sum(not complaints[case.name] for case in cases)


def is_older(operator: str) -> bool:
    """Did the standard have this operator at the older opset already?"""
    domain, _, name = operator.rpartition("::")
    return not domain and onnx.defs.has(name, OLDER, "")


if __name__ == "__main__":
    sys.exit(main())
