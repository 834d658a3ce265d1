"""VisRL from Python: `import visrl_data as visrl`. These names are all that a program needs besides visrl_train's.

Each is loaded when it is first used, so importing the package costs nothing. docs/python.md shows them at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visrl_data.config import GenConfig as GenConfig
    from visrl_data.errors import VisRLError as VisRLError
    from visrl_data.evaluation.config import EvalConfig as EvalConfig
    from visrl_data.evaluation.evaluate import evaluate as evaluate
    from visrl_data.factory import generate as generate
    from visrl_data.finishing import filter_run as filter_run
    from visrl_data.finishing import sweep_run as sweep_run
    from visrl_data.publishing.pushing import push as push
    from visrl_data.report.comparing import compare as compare
    from visrl_data.store import Run as Run

_MODULES = {
    "GenConfig": "config",
    "Run": "store",
    "generate": "factory",
    "filter_run": "finishing",
    "sweep_run": "finishing",
    "compare": "report.comparing",
    "push": "publishing.pushing",
    "EvalConfig": "evaluation.config",
    "evaluate": "evaluation.evaluate",
    "VisRLError": "errors",
}
__all__ = list(_MODULES)

if not TYPE_CHECKING:  # a type checker sees the imports above, and other names as the mistakes that they are

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
