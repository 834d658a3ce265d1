"""Download datasets of the Hub: for `visrl inspect`, `visrl rebuild`, training, and merging with new runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import HubFailure, Say, attempt, careful_client, hub_api

# What merging reads of a dataset (parts.py); the training rows are built again.
MERGED = ("manifest.json", "report.json", "runs/*", "audit/*", "data/candidates/*", "data/images/*")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A downloaded dataset of the Hub. name: USER/NAME[@TAG]; commit: the one that the name resolved to."""

    folder: Path
    name: str
    commit: str


def is_hub_name(text: str) -> bool:
    """Tell whether a text has the form USER/NAME or USER/NAME@TAG."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+(@[\w./+-]+)?", text, re.ASCII) is not None


def fetch_dataset(
    name: str,
    files: Sequence[str] | None = None,
    say: Say = lambda _: None,
    delays: tuple[float, ...] | None = None,
) -> HubDataset:
    """Download USER/NAME[@TAG] into the Hub's cache. files: patterns; default: all. Raises VisRLError.

    delays: seconds before each further try, where the connection fails; default: as `attempt` has it.
    """
    hub_id, _, tag = name.partition("@")

    def download() -> str:
        patterns = list(files) if files else None
        return hub_api().snapshot_download(hub_id, repo_type="dataset", revision=tag or None, allow_patterns=patterns)

    try:
        with careful_client():
            folder = Path(attempt(f"fetching {name}", download, say, delays))
    except HubFailure as error:
        reason, hint = error.reason, error.hint
        if error.status in (401, 403, 404):
            hint = "Check the name and the tag; a private one needs `hf auth login` with an account that may read it."
        raise VisRLError(f"The dataset {name} could not be fetched: {reason}. {hint}") from None
    return HubDataset(folder, name, folder.name)  # a snapshot's folder is named by its commit
