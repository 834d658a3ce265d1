"""A model behind an address: what is known of it without its weights.

model_pair.py makes these for `--engine openai`; engines/openai.py talks to them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from visrl_data.core.crops import CropRule
from visrl_data.core.errors import UsageError
from visrl_data.models.model_folder import ALIASES, ModelFolder, find_model

KEY = "OPENAI_API_KEY"
CRITIC_KEY = "OPENAI_CRITIC_API_KEY"
ADDRESS = "OPENAI_BASE_URL"
DEFAULT_ADDRESS = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """id: the name that the server knows it by. key: the environment variable that holds the key, if there is one.

    folder: the same model on this disk, where its name, or the root that the server lists for it, is that of a folder
    here: what the folder records of boxes and origin holds; whether the server runs the same bytes can't be seen, so
    no digest is claimed. root: where the server loaded it from. parent: of a LoRA module, the name of its base there.
    """

    id: str
    address: str
    key: str
    folder: ModelFolder | None = None
    root: str = ""
    parent: str = ""

    revision = None
    digest = ""

    @property
    def steps(self) -> int:
        return self.folder.steps if self.folder else 2

    @property
    def box_space(self) -> str | None:
        return self.folder.box_space if self.folder else None

    @property
    def crop_rule(self) -> CropRule | None:
        return self.folder.crop_rule if self.folder else None

    @property
    def origin_base(self) -> str | None:
        """The ORIGINAL model's id; None when nothing here tells which one it is."""
        return self.folder.origin_base if self.folder else None


def find_served_model(model: str, base_url: str | None) -> ServedModel:
    """Describe the model that a server calls `model`. Raises UsageError when the address can't be one."""
    return ServedModel(model, server_address(base_url), KEY, _folder_here(model))


def add_listing(model: ServedModel, listing: Mapping[str, Any]) -> ServedModel:
    """Return the model with what its server's list says of it: a name such as `actor` is then that of a folder here."""
    root, parent = (value if isinstance(value := listing.get(name), str) else "" for name in ("root", "parent"))
    folder = model.folder or (_folder_here(root) if root else None)
    return dataclasses.replace(model, folder=folder, root=root, parent=parent)


def _folder_here(name: str) -> ModelFolder | None:
    is_here = name in ALIASES
    with contextlib.suppress(OSError):  # a name too long for a file
        is_here |= any((Path(name) / f"{file}.json").is_file() for file in ("config", "adapter_config"))
    return find_model(name, weights=False) if is_here else None


def server_address(base_url: str | None) -> str:
    """Return the server's address from the option, the environment or the default, without a slash at its end.

    Raises UsageError for anything but a plain http(s) address: it is written into files, so it may hold no
    user, password or query.
    """
    url = base_url or os.environ.get(ADDRESS) or DEFAULT_ADDRESS
    with contextlib.suppress(ValueError):  # brackets without an IPv6 address, a port that is no number, an empty label
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                "The server's address holds a user, a password or a query. It is written into the run's files: give it "
                f"plain, like http://localhost:8000/v1, and put the key into the environment variable {KEY}."
            )
        if parts.scheme in ("http", "https") and parts.hostname and parts.hostname.encode("idna") and parts.port != 0:
            return url.rstrip("/")
    shown = "" if any(mark in url for mark in "@?#") else f" {url}"  # what may hold a secret is not repeated
    raise UsageError(f"--base-url{shown}: expected an address like http://localhost:8000/v1.")
