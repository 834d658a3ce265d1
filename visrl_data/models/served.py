"""A model behind an address: what is known of it without its weights.

model_pair.py makes these for `--engine openai`; engines/openai.py talks to them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
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

    folder: the same model on this disk, where its name is that of a folder here: what the folder records of boxes
    and origin holds; whether the server runs the same bytes can't be seen, so no digest is claimed.
    """

    id: str
    address: str
    key: str
    folder: ModelFolder | None = None

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


def find_served_model(model: str, base_url: str | None, key: str = KEY) -> ServedModel:
    """Describe the model that a server calls `model`. Raises UsageError when the address can't be one."""
    here = model in ALIASES or any((Path(model) / f"{name}.json").is_file() for name in ("config", "adapter_config"))
    return ServedModel(model, server_address(base_url), key, find_model(model) if here else None)


def server_address(base_url: str | None) -> str:
    """Return the server's address from the option, the environment or the default, without a slash at its end.

    Raises UsageError for anything but a plain http(s) address: it is written into files, so it may hold no
    user, password or query.
    """
    url = base_url or os.environ.get(ADDRESS) or DEFAULT_ADDRESS
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "The server's address holds a user, a password or a query. It is written into the run's files: give it "
            f"plain, like http://localhost:8000/v1, and put the key into the environment variable {KEY}."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--base-url {url}: expected an address like http://localhost:8000/v1.")
    return url.rstrip("/")
