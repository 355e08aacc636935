"""darwinc makes neural networks smaller by evolution: ONNX in, a smaller and proven ONNX out.

    import darwinc
    result = darwinc.compress("model.onnx", target=0.5, output="small.onnx")

Names load on first use, so that `import darwinc` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darwinc.compression import Result, Scoring, Settings, Target, Training, compress

__all__ = ["Result", "Scoring", "Settings", "Target", "Training", "__version__", "compress"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'darwinc' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("darwinc.compression"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
