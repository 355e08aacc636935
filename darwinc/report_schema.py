"""The schema `darwinc.report/1` of report.json, as typed models.

`report.schema.json`, which ships beside this module, is generated from these models; a test keeps both in step.
Unknown fields are kept, so that a report of a later version can still be read. What a run could not measure is
null or absent; not-a-number is written as null, since JSON has no word for it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from darwinc.evolution_schema import Evolution, Generation
from darwinc.schema_part import Part

SCHEMA: Literal["darwinc.report/1"] = "darwinc.report/1"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

AxisIndex = Annotated[str, Field(pattern=r"^\d+$")]
Kept = list[int] | list[list[int]]
Axes = Annotated[dict[AxisIndex, Kept], Field(json_schema_extra={"additionalProperties": False})]


class Tool(Part):
    """Versions, and the machine; null where a package isn't installed."""

    darwinc: str | None = None
    onnx: str | None = None
    onnxruntime: str | None = None
    torch: str | None = None
    python: str
    device: str
    cpu: str | None = None


class ModelFile(Part):
    """A model file by name and content."""

    path: str
    sha256: str
    bytes: int


class Target(Part):
    """What was asked for and what came out, as the same kind of figure."""

    kind: str
    asked: float
    achieved: float | None = None


class Counts(Part):
    """The size of a model; null where it can't be counted, such as MACs without shapes."""

    parameters: int
    macs: int | None = None
    bytes: int | None = None
    channels: int | None = None
    kernels: int | None = None
    synapses: int | None = None


class Efficiency(Part):
    """Before / after of the counts: 2.0 is half the size. `synaptic` counts synapses, `cluster` kernels."""

    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    synaptic: float | None = None
    cluster: float | None = None


class Member(Part):
    """One axis of one tensor."""

    tensor: str
    axis: int


class Death(Part):
    """One removed channel, by its place in the group.

    `cause` is collapsed, redundant, no_influence or stagnant; low_score where a criterion ranked it that says nothing
    of causes. `peers` are the survivors that say what it said, with their coefficients in
    deviations, the largest first.
    """

    unit: int
    cause: Literal["collapsed", "redundant", "no_influence", "stagnant", "low_score"]
    peers: list[tuple[int, float]] = []


class Group(Part):
    """Channels that live and die together. `causes` counts the deaths by cause."""

    id: str
    channels_before: int
    channels_after: int
    members: list[Member] = []
    scores: dict[str, JsonValue] = {}
    causes: dict[str, int] = {}
    deaths: list[Death] = []


class Barrier(Part):
    """A node that keeps channels alive, and why."""

    node: str
    op_type: str
    reason: str


class Agreement(Part):
    """How closely two models answer alike; errors over all elements of all outputs, relative to the output's scale."""

    inputs: int
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    near_ties: int = 0
    passed: bool


class Verification(Agreement):
    """The rewrite against the original with the removed channels zeroed; after recovery OUT against the twin too."""

    method: str = "zeroed-original"
    twin: Agreement | None = None


class Quality(Part):
    """The metric on held-out samples. A rate (accuracy, agreement) may be a fraction or in points."""

    metric: str
    before: float | None = None
    after: float | None = None
    samples: int | None = None
    split: str | None = None
    higher_is_better: bool = True
    scale: Literal["fraction", "points"] | None = None


class Parity(Part):
    """The written model against the original, on samples: RMS of the difference / RMS of the original's outputs."""

    relative_error: float | None = None
    samples: int | None = None


class Latency(Part):
    """ONNX Runtime, interleaved; `speedup` is before / after and `ci95` its 95 % interval."""

    before_ms: float | None = None
    after_ms: float | None = None
    speedup: float | None = None
    ci95: tuple[float | None, float | None] | None = None
    noise_floor: float | None = None
    verdict: Literal["faster", "slower", "indistinguishable"] | None = None
    provider: str | None = None
    threads: int | None = None
    optimization_level: str | None = None


class LayerLatency(Part):
    """What one node takes in the profiled graph, and is predicted to take with its new widths."""

    node: str
    op_type: str
    before_ms: float
    after_ms: float


class LatencyModel(Part):
    """What the latency model foresaw. `multiples` are the widths' multiples that each kind of operator likes here."""

    before_ms: float
    after_ms: float
    multiples: dict[str, int] = {}
    layers: list[LayerLatency] = []


class Bound(Part):
    """A root mean square error: the predicted bound, and what was measured; `node` is null for an output's own.

    The root is of the mean over samples of the sum over positions and channels. `local` is what the node adds by
    itself, `scale` the size of the original's value. Where there's no bound, `unbounded` names the node that loses it.
    """

    node: str | None = None
    output: str | None = None
    bound: float | None = None
    local: float | None = None
    measured: float | None = None
    scale: float | None = None
    ratio: float | None = None
    vacuous: bool = False
    unbounded: str | None = None


class Guarantee(Part):
    """The predicted bound of the error beside the measured one, for every layer that lost inputs and every output.

    The bound is that of a network whose layers inherit, on these samples; it is vacuous above 100 times the error.
    """

    samples: int | None = None
    layers: list[Bound] = []
    outputs: list[Bound] = []


class PopulationHistory(Part):
    """The masses (or fitness) of one group's channels over time.

    `masses` has a row per recorded step: a figure for each channel, or, where there are many, the minimum, quartiles
    and maximum (`summarised`). `extinct` is the step at which each channel died; null where it lives.
    """

    id: str
    masses: list[list[float]] = []
    summarised: bool = False
    extinct: list[int | None] = []


class Dynamics(Part):
    """How channels competed during training: `kind` is a dynamic of selection, or persistence of the score."""

    kind: str
    steps: list[int] = []
    alive: list[int] = []
    groups: list[PopulationHistory] = []


class Probe(Part):
    """One cut that a search tried: the share of parameters removed, and the target's figure there.

    That is the share of latency removed, as measured and as predicted, or the points that the metric fell by.
    """

    removed: float
    achieved: float | None = None
    predicted: float | None = None
    passed: bool


class Skipped(Part):
    """A node that a pass left alone, and why."""

    node: str
    reason: str


class PassRun(Part):
    """One pass of the pipeline."""

    name: str
    options: dict[str, JsonValue] = {}
    changed: bool
    seconds: float | None = None
    skipped: list[Skipped] = []


class Training(Part):
    """How a network was trained. `history` has a row for each evaluation: step, training loss, score.

    `ended` is budget, patience or divergence; `endings` says where losses were taken, and what was there; `features`
    are the inner values that were matched.
    """

    steps: int
    epochs: float
    seconds: float
    ended: Literal["budget", "patience", "divergence"]
    history: list[list[float | None]] = []
    samples: int
    validation: int
    batch: int
    optimizer: str
    device: str
    devices: int = 1
    precision: str
    compiled: bool = False
    augmentation: str | None = None
    endings: dict[str, str] = {}
    features: list[str] = []


class Recovery(Part):
    """One repair; `error_*` on held-out samples, accepted only where it helps. `measure` says what the error is."""

    name: str
    accepted: bool
    measure: str = "divergence"
    training: Training | None = None
    error_before: float | None = None
    error_after: float | None = None
    seconds: float | None = None
    notes: list[str] = []


class FinerAlignment(Part):
    """A group whose channel count is a multiple of less than the default."""

    group: str
    multiple: int
    why: str


class Alignment(Part):
    """Of what number the channel counts are multiples; `multiples` by kind of operator, where they were measured."""

    default: int
    multiples: dict[str, int] = {}
    finer: list[FinerAlignment] = []


class Report(Part):
    """The whole of report.json."""

    model_config = ConfigDict(populate_by_name=True)

    schema_id: Literal["darwinc.report/1"] = Field(default=SCHEMA, alias="schema")
    tool: Tool
    command: list[str]
    seed: int | None = None
    mode: Literal["data-free", "unlabelled", "labelled"]
    statistics: Literal["data", "batchnorm", "white", "weights"] | None = None
    input: ModelFile
    output: ModelFile | None = None
    target: Target
    before: Counts
    after: Counts | None = None
    efficiency: Efficiency | None = None
    groups: list[Group] = []
    alignment: Alignment | None = None
    kept: dict[str, Axes] = {}
    copies: dict[str, str] = {}
    barriers: list[Barrier] = []
    verify: Verification | None = None
    parity: Parity | None = None
    quality: Quality | None = None
    latency: Latency | None = None
    latency_model: LatencyModel | None = None
    guarantee: Guarantee | None = None
    dynamics: Dynamics | None = None
    search: list[Probe] = []
    recovery: list[Recovery] = []
    evolution: Evolution | None = None
    generations: list[Generation] = []
    passes: list[PassRun] = []
    time: dict[str, float] = {}
    peak_memory_bytes: int | None = None
    warnings: list[str] = []


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of report.json, from the models of this module."""
    return {"$schema": DIALECT, **Report.model_json_schema(by_alias=True), "title": SCHEMA}
