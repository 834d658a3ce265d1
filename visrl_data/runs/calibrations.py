"""Remember the last calibration of each critic, by what its verdicts depend on, for `visrl gen` and for cards.

    calibrations/last/KEY.json    in the folder that `visrl calibrate` was called in, whatever its --output
    RUN/calibration.json          beside a run, put there by `visrl gen`; from there it goes onto the dataset's card

KEY is a digest of the critic (of its weights; its name where it is served), of the prompts of both critics and of the
options that change a verdict. So a calibration counts for every actor and source with that critic, and for no other.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visrl_data.core import files
from visrl_data.core.reading import Damaged, read_json
from visrl_data.engines.protocol import ModelIdentity
from visrl_data.runs.manifest import CalibrationSummary, RunIdentity, critic_identity
from visrl_data.runs.run_folder import Run

logger = logging.getLogger(__name__)
FOLDER = Path("calibrations")
NAME = "calibration.json"
_OPTIONS = {"score_mode": "text", "quantize": None, "max_pixels": None, "constrain": False}  # with their defaults
_CRITICS = ("box_critic@", "response_critic@")


def calibration_key(critic: ModelIdentity, prompts: Iterable[str], options: Mapping[str, Any]) -> str:
    """Return the key of a critic. prompts: ids, those of the critics count; options: of the run or calibration."""
    about = {
        "critic": critic.get("digest") or critic.get("model") or critic["engine"],
        "prompts": sorted(prompt for prompt in prompts if prompt.startswith(_CRITICS)),
        **{name: options.get(name, default) for name, default in _OPTIONS.items()},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def run_key(identity: RunIdentity, config: Mapping[str, Any]) -> str | None:
    """Return the key of a run's critic; None where no model scored."""
    critic = critic_identity(identity, config)
    if critic is None:
        return None
    settings = identity.get("image_settings")
    bound = settings["max_pixels"] if settings else config.get("max_pixels")
    return calibration_key(critic, identity["prompts"], {**config, "max_pixels": bound})


def remember(summary: CalibrationSummary) -> None:
    """Make this the last calibration of its critic; warn where this folder can't be written."""
    try:
        (FOLDER / "last").mkdir(parents=True, exist_ok=True)
        files.write_shared_json(_path(summary["key"]), summary)
    except OSError as error:
        logger.warning("%s can't be written (%s), so `visrl gen` won't show it.", FOLDER / "last", error.strerror)


def last_calibration(key: str | None) -> CalibrationSummary | None:
    """Return the last calibration with this key; None where there is none, or none that can be read."""
    if key is None or not _path(key).is_file():
        return None
    try:
        return read_json(_path(key), CalibrationSummary, "")
    except Damaged:
        return None


def _path(key: str) -> Path:
    return FOLDER / "last" / f"{key}.json"


def attach_last(run: Run) -> None:
    """Put the last calibration of a finished run's critic beside it, without the paths of this machine."""
    if summary := last_calibration(run_key(run.identity(), run.config())):
        files.write_json(run.path / NAME, {name: value for name, value in summary.items() if name != "folder"})


def read_attached(run: Path, key: str | None) -> CalibrationSummary | None:
    """Return the calibration beside a run if it is of the run's critic. Raises Damaged."""
    if not (run / NAME).is_file():
        return None
    summary = read_json(run / NAME, CalibrationSummary, f"Remove {run / NAME}; `visrl gen` puts it there again.")
    return summary if summary["key"] == key else None
