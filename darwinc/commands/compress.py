"""`darwinc compress`: the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darwinc.commands.dynamics import dynamics_options
from darwinc.commands.evolution import evolution_options
from darwinc.commands.options import data_options, keep_apart, model_argument, output_file, terminal_options
from darwinc.commands.scoring import scoring_options
from darwinc.commands.targets import target_options
from darwinc.commands.training import training_options
from darwinc.dynamics_options import Dynamics
from darwinc.errors import UsageError
from darwinc.evolution_options import Evolution
from darwinc.training import Training, leads

if TYPE_CHECKING:
    from darwinc.compression import Target
    from darwinc.console import Terminal
    from darwinc.report_schema import Report
    from darwinc.scoring import Scoring

ALIGNMENTS = ("auto", "1", "2", "4", "8", "16", "32")
STRATEGIES = ("cull", "select", "evolve")


@click.command(short_help="Make a model smaller: calibrate, cull, rewrite, prove, report.")
@model_argument("model")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="OUT.onnx", help="Where the smaller model goes."
)
@target_options
@data_options
@click.option("--test", metavar="PATH|SPEC", help="Samples on which quality is measured, and nothing else is done.")
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="cull",
    show_default=True,
    help="cull: the least fit go, at once; or while the network trains, where a budget (--steps, --epochs, --minutes) "
    "is given and --recover names neither distill nor finetune, whose budget it is otherwise. select: selection "
    "dynamics while the network trains. evolve: generations of offspring, of which the fittest survive.",
)
@scoring_options
@click.option(
    "--recover",
    metavar="LIST",
    help="none, inherit, recalibrate, distill, finetune, in order. "
    "[default: inherit with data or BatchNormalization, else none; none after competition; of evolve inherit, "
    "recalibrate and, with a budget, finetune where there are labels, else distill]",
)
@dynamics_options
@evolution_options
@training_options
@click.option(
    "--loss",
    default="auto",
    show_default=True,
    metavar="LOSS",
    help="Of finetune: auto, cross-entropy, binary, dense, or package.module:function.",
)
@click.option(
    "--teacher",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    metavar="SHARE",
    help="Of finetune: the share of its loss that matches the original's answers; 0 doesn't ask it, which is faster.",
)
@click.option(
    "--outputs",
    default="",
    metavar="NAME=KIND,...",
    help="What outputs are, where it can't be inferred: classes, dense, binary, values, ignore.",
)
@click.option(
    "--align",
    type=click.Choice(ALIGNMENTS),
    default="auto",
    show_default=True,
    help="Multiple of channels that stay; auto: what is measured to be fast here (8 with --bench-seconds 0).",
)
@click.option(
    "--max-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Most of one group that may go.",
)
@click.option(
    "--protect", multiple=True, metavar="PATTERN", help="Nodes, tensors or groups that must stay whole (repeatable)."
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Nodes, tensors or groups that alone may lose channels (repeatable).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="For everything that is drawn at random."
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads of ONNX Runtime when latency is measured.",
)
@click.option(
    "--bench-seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="How long latency is measured; 0 leaves it out.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan; write no model.")
@output_file("--report", text="report.json, by the schema darwinc.report/1.")
@output_file("--html", text="The report as one page with pictures, for a browser.")
@output_file("--markdown", text="The report as Markdown.")
@terminal_options
def compress(
    model: Path,
    output: Path | None,
    target: Target,
    data: str | None,
    labels: str | None,
    preprocess: str | None,
    test: str | None,
    strategy: str,
    fitness: str,
    scoring: Scoring,
    recover: str | None,
    dynamics: Dynamics,
    evolution: Evolution,
    training: Training,
    loss: str,
    teacher: float,
    outputs: str,
    align: str,
    max_share: float,
    protect: tuple[str, ...],
    only: tuple[str, ...],
    device: str,
    seed: int,
    threads: int,
    bench_seconds: float,
    dry_run: bool,
    report: Path | None,
    html: Path | None,
    markdown: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Make MODEL smaller and write it to OUT.onnx.

    \b
    darwinc compress model.onnx --target-sparsity 0.5 -o small.onnx
    darwinc compress model.onnx --target-macs 0.5 -o small.onnx --data images/ --preprocess imagenet
    """
    from darwinc.compression import Settings
    from darwinc.compression import compress as run
    from darwinc.console import Terminal

    if output is None and not dry_run:
        raise UsageError("There is no output: name a file with -o OUT.onnx, or ask for the plan alone with --dry-run.")
    keep_apart(
        {"-o": output, "--report": report, "--html": html, "--markdown": markdown},
        {"the model": model, "--data": data, "--labels": labels, "--test": test}
        | {f"--trajectory {path}": path for path in scoring.trajectory},
    )
    terminal = Terminal(quiet=quiet or not leads(), verbose=verbose)
    settings = Settings(
        data=data,
        labels=labels,
        preprocess=preprocess,
        test=test,
        strategy=strategy,
        dynamics=dynamics,
        evolution=evolution,
        fitness=fitness,
        align=0 if align == "auto" else int(align),
        max_share=max_share,
        protect=protect,
        only=only,
        scoring=scoring,
        recover=tuple(part.strip() for part in recover.split(",")) if recover else None,
        training=training,
        loss=loss,
        teacher=teacher,
        outputs=outputs,
        device=device,
        seed=seed,
        bench_seconds=bench_seconds,
        threads=threads,
        dry_run=dry_run,
    )
    for path in (report, html, markdown):
        if path is not None:
            _check_target(path)
    command = ["darwinc", *sys.argv[1:]]
    result = run(
        model,
        target=target,
        output=output,
        settings=settings,
        terminal=terminal,
        command=command,
    )
    if leads():
        show(terminal, result.report, dry_run=dry_run)
        write_reports(result.report, report, markdown, html)


def _check_target(path: Path) -> None:
    from darwinc.graph import check_writable

    check_writable(path)


def show(terminal: Terminal, report: Report, *, dry_run: bool) -> None:
    """The outcome on the terminal."""
    from darwinc.console import GroupRow, groups_table, summary_table
    from darwinc.pages.evolution import evolution_lines
    from darwinc.pages.texts import causes_text, guarantee_lines, latency_text, recovery_lines, target_text

    remarks = {
        entry.group: f"multiple of {entry.multiple}: {entry.why}"
        for entry in (report.alignment.finer if report.alignment else [])
    }
    rows = [
        GroupRow(
            group.id,
            group.channels_before,
            group.channels_after,
            [member.tensor for member in group.members],
            remarks.get(group.id, ""),
        )
        for group in report.groups
        if dry_run or group.channels_after < group.channels_before
    ]
    terminal.show(groups_table(rows), summary_table(report))
    for warning in report.warnings if not terminal.quiet else ():
        terminal.warn(warning)
    achieved, asked = target_text(report)
    terminal.note(f"target: {achieved}" + (f" ({asked})" if asked else ""))
    causes = causes_text(report)
    if causes:
        terminal.note(f"channels that died: {causes}")
    for line in () if dry_run else recovery_lines(report):
        terminal.note(line)
    for line in evolution_lines(report):
        terminal.note(line)
    if report.verify is not None:
        terminal.note(
            f"proven: answers like the original with the removed channels zeroed, to "
            f"{report.verify.max_rel_error:.1e} of the output's scale"
        )
    for line in guarantee_lines(report):
        terminal.note(line)
    if report.latency is not None:
        terminal.note(f"latency in ONNX Runtime: {latency_text(report.latency)}")
    if dry_run:
        terminal.note("This was the plan; no model was written.")
    elif report.output is not None:
        terminal.note(f"wrote {report.output.path}")


def write_reports(
    report: Report, as_json: Path | None, as_markdown: Path | None = None, as_html: Path | None = None
) -> None:
    """report.json and its pages, where asked for."""
    from darwinc.report import to_markdown, write_json, write_text

    if as_json is not None:
        write_json(report, as_json)
    if as_markdown is not None:
        write_text(to_markdown(report), as_markdown)
    if as_html is not None:
        # matplotlib takes a second to import, which only a page with pictures should pay.
        from darwinc.pages.html import to_html

        write_text(to_html(report), as_html)
