"""Read the options of a run that somebody published: the same run again, by `visrl gen --config`.

They come from a file of options at a URL, or from manifest.json of a dataset on the Hub. Both are a stranger's text:
their size is bounded, only known options count, and none of them may name a file, a folder or a server of the machine
that reads them. What the maker's run had there, the user names with a flag.
"""

from __future__ import annotations

import http.client
import tomllib
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visrl_data.core.config import GenConfig, check_trust, current_options, load_config, make_config
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.hub_access import HubFailure, Say, attempt, careful_client, hub_api
from visrl_data.core.reading import read_json
from visrl_data.core.text import one_line
from visrl_data.core.versions import visrl_version
from visrl_data.models.model_folder import ALIASES
from visrl_data.runs.hub_fetch import fetch_dataset, is_hub_name
from visrl_data.runs.manifest import DatasetManifest, DatasetRun
from visrl_data.sources.dispatch import PUBLISHED
from visrl_data.sources.urls import shown

MOST_BYTES = 2**20  # of a file of options
MOST_MANIFEST_BYTES = 64 * 2**20  # it has a digest for each file of the dataset
SECONDS = 30.0
_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".arrow", ".parquet", ".gz", ".zst", ".zip", ".tar")
# What names something of the maker's machine, or grants what only the user can.
_OWN = ("images_root", "prompts", "base_url", "critic_base_url", "vllm_options", "allow_urls", "ship_images")


def resolve_options(config: str | None, flags: Mapping[str, Any], say: Say = lambda _: None) -> GenConfig:
    """Return the options of a file, a URL or USER/NAME@TAG, overridden by those of the command line.

    say: takes a line for each try that is repeated. Raises UsageError: no such file, an unknown option, one that the
    user has to name; VisRLError: no connection.
    """
    if config is None or not _is_remote(config):
        return load_config(None if config is None else Path(config), dict(flags))
    values = _fetch(config) if "://" in config else published_options(_run_of(config, say))
    where = f"--config {shown(config) if '://' in config else config}"
    check_trust(values, dict(flags), where)
    missing = [name for name in local_options(values) if name not in flags]
    if missing:
        words = ", ".join(f"{_flag(name)} {one_line(values[name], 100)}" for name in missing)
        raise UsageError(
            f"{where} was made with {words}: something of its maker's machine, or that only you can grant. Expected "
            f"your own {' and '.join(map(_flag, missing))} on the command line."
        )
    return make_config(GenConfig, values, dict(flags), where, command="visrl gen")


def published_options(run: DatasetRun) -> dict[str, Any]:
    """Return the options of a published run, with its models pinned to their revisions."""
    config = current_options(dict(run["config"]))
    for option, model in (("model", run["run"]["actor"]), ("critic", run["run"]["critic"])):
        name, revision = config.get(option), model.get("revision")
        if revision and isinstance(name, str) and "@" not in name:
            config[option] = f"{name}@{revision}"
    return config


def local_options(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that another machine can't take as they are."""
    models = [name for name in ("model", "critic") if not _has_model(values.get(name))]
    source = [] if _has_source(values.get("source", "spotlight")) else ["source"]
    return [*models, *source, *(name for name in _OWN if values.get(name) not in (None, {}, False))]


def _has_model(name: object) -> bool:
    return name is None or name in ALIASES or (isinstance(name, str) and is_hub_name(name))


def _has_source(source: object) -> bool:
    """Tell whether a source is drawn here or is on the Hub."""
    if not isinstance(source, str):
        return False
    name = source.removeprefix("hf:").partition(":")[0]
    known = name == "spotlight" or name.partition("@")[0] in PUBLISHED
    return known or (is_hub_name(name) and not name.endswith(_FILES))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_remote(config: str) -> bool:
    mistyped = "@" not in config and Path(config).parent.is_dir()  # like runs/options beside runs/options.toml
    return "://" in config or (is_hub_name(config) and not Path(config).exists() and not mistyped)


def _run_of(name: str, say: Say) -> DatasetRun:
    """Return the only run of a dataset of the Hub. Raises UsageError when it has several."""
    delays = None if _check_size(name, say) else ()  # one series of tries; without a connection the cache may have it
    folder = fetch_dataset(name, ["manifest.json"], say, delays).folder
    path = folder / "manifest.json"
    if not path.is_file():
        raise UsageError(f"--config {name}: expected a dataset that `visrl push` published; it has no manifest.json.")
    runs = read_json(path, DatasetManifest, f"Publish {name} again.")["runs"]
    if len(runs) != 1:
        raise UsageError(
            f"--config {name} has {len(runs)} runs. Expected a dataset of one; the card of this one has the command of "
            "each."
        )
    return runs[0]


def _check_size(name: str, say: Say) -> bool:
    """Return whether the Hub could be asked for the size. Raises UsageError for a manifest that is too large."""
    hub_id, _, tag = name.partition("@")

    def look() -> int:
        paths = hub_api().get_paths_info(hub_id, ["manifest.json"], repo_type="dataset", revision=tag or None)
        return sum(getattr(file, "size", 0) or 0 for file in paths)

    try:
        with careful_client():
            size = attempt(f"looking at {name}", look, say)
    except HubFailure as failure:
        return not failure.transient  # fetch_dataset says what fails
    if size > MOST_MANIFEST_BYTES:
        raise UsageError(
            f"--config {name}: its manifest.json has {size} bytes; at most {MOST_MANIFEST_BYTES} are read."
        )
    return True


def _fetch(url: str) -> dict[str, Any]:
    """Download a file of options. Raises UsageError, VisRLError."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--config {shown(url)}: expected http:// or https://.")
    request = urllib.request.Request(url, headers={"User-Agent": f"visrl/{visrl_version()}"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            data = response.read(MOST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise VisRLError(f"--config {shown(url)} could not be fetched: {error}. Check the address.") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"--config {shown(url)}: more than {MOST_BYTES} bytes. Expected a TOML file of options.")
    try:
        return current_options(tomllib.loads(data.decode()))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {shown(url)}: {error}. Expected a TOML file of options.") from error
