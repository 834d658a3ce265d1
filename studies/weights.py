"""Name the weights behind a cell: the shipped ones, by their digests. Cells of other weights are not shown."""

from __future__ import annotations

from functools import cache

from visrl_data.models.model_folder import digest_folder
from visrl_data.spotlight import ACTOR, BASE


@cache
def shipped_weights() -> dict[str, str]:
    """Return the digests of the shipped base and actor."""
    return {"base": digest_folder(BASE), "actor": digest_folder(ACTOR)}
