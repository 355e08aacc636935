"""What a job has to pass: the rewrite against the zeroed original, and the recovered model against its twin.

And what bounds its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from darwinc.console import Stage
from darwinc.data import fitting_batches, fixed_batch
from darwinc.equivalence import Agreement, agree, answers, is_bounded, is_chosen, prove_rewrite, tolerance_of
from darwinc.errors import VerificationFailed
from darwinc.passes.excise import excise
from darwinc.pipeline import Job
from darwinc.runtime import Feed, inputs_of, open_session, usable_feed

PROOF_INPUTS, PROOF_BATCH = 4, 2
TWIN_INPUTS = 2
TWIN_SLACK = 4.0
"""The twin may differ from ONNX Runtime by this many times what the untouched original does, if above the tolerance."""


def proof_feeds(job: Job) -> list[Feed]:
    """Inputs for the proof: calibration samples where there are any, made-up ones otherwise."""
    if job.samples is not None:
        inputs = inputs_of(job.original)
        few = job.samples.take(slice(0, PROOF_INPUTS * (fixed_batch(inputs) or PROOF_BATCH)))
        return [part.feed for part in fitting_batches(few, inputs, PROOF_BATCH)]
    session = open_session(job.original, optimization="basic")
    return [usable_feed(session, seed=job.seed + number, demand="finite") for number in range(PROOF_INPUTS)]


def prove(job: Job, feeds: Sequence[Feed]) -> Agreement:
    zeroed, _ = excise(job.original, job.channels, job.dead, zero=True)
    proof = prove_rewrite(zeroed, job.model, job.channels, job.dead, feeds)
    if not proof.passed:
        raise VerificationFailed(
            "The rewritten graph answers differently from the original with the removed channels zeroed (relative "
            f"error {proof.max_rel_error:.1e}, at most {tolerance_of(job.original):.0e} is allowed); nothing was "
            "written, please report this model."
        )
    return proof


def prove_twin(job: Job, feeds: Sequence[Feed]) -> Agreement:
    """The recovered model in ONNX Runtime against its twin; the untouched original against its own sets the noise."""
    feeds = feeds[:TWIN_INPUTS]
    noise = _twin_agreement(job.original, feeds, job.device, tolerance_of(job.original))
    tolerance = max(tolerance_of(job.original), TWIN_SLACK * noise.max_rel_error)
    found = _twin_agreement(job.model, feeds, job.device, tolerance)
    if not found.passed:
        raise VerificationFailed(
            "The recovered model answers differently in ONNX Runtime and in torch (relative error "
            f"{found.max_rel_error:.1e}, at most {tolerance:.0e} is allowed); nothing was written, "
            "please report this model."
        )
    return found


def guaranteed(job: Job, stage: Stage) -> dict[str, Any] | None:
    """The report's `guarantee`: what bounds the error beside what it is.

    None without calibration data, and where weights may have been trained: the bound is one for layers that inherit.
    """
    if job.evolution is not None or any(entry["accepted"] and entry.get("training") for entry in job.recovery):
        return None
    # torch takes seconds to import, which a run that measures nothing shouldn't pay.
    from darwinc.calibrators.guarantee import guarantee_of

    return guarantee_of(job, stage.at)


def _twin_agreement(model: ir.Model, feeds: Sequence[Feed], device: str, tolerance: float) -> Agreement:
    from darwinc.torch_graph import TorchGraph

    twin = TorchGraph(model, device=device)
    names = [str(value.name) for value in model.graph.outputs]
    told = [[found[name].cpu().numpy() for name in names] for found in map(twin.detached, feeds)]
    return agree(answers(model, feeds), told, is_bounded(model), tolerance, is_chosen(model))
