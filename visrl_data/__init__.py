"""VisRL from Python: `import visrl_data as visrl`. These names are all that a program needs besides visrl_train's.

Each is loaded when it is first used, so importing the package costs nothing. docs/python.md shows them at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visrl_data.calibration.calibrate import calibrate as calibrate
    from visrl_data.calibration.config import CalibrationConfig as CalibrationConfig
    from visrl_data.core.config import GenConfig as GenConfig
    from visrl_data.core.errors import VisRLError as VisRLError
    from visrl_data.evaluation.config import EvalConfig as EvalConfig
    from visrl_data.evaluation.evaluate import evaluate as evaluate
    from visrl_data.executors.generation import generate as generate
    from visrl_data.pipeline.finalize import filter_run as filter_run
    from visrl_data.pipeline.finalize import sweep_run as sweep_run
    from visrl_data.publishing.push import push as push
    from visrl_data.report.comparison import compare as compare
    from visrl_data.runs.run_folder import Run as Run

_MODULES = {
    "GenConfig": "core.config",
    "Run": "runs.run_folder",
    "generate": "executors.generation",
    "CalibrationConfig": "calibration.config",
    "calibrate": "calibration.calibrate",
    "filter_run": "pipeline.finalize",
    "sweep_run": "pipeline.finalize",
    "compare": "report.comparison",
    "push": "publishing.push",
    "EvalConfig": "evaluation.config",
    "evaluate": "evaluation.evaluate",
    "VisRLError": "core.errors",
}
__all__ = list(_MODULES)

if not TYPE_CHECKING:  # a type checker sees the imports above, and other names as the mistakes that they are

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
