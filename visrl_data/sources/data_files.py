"""Check which files a dataset folder or repository says that it consists of, before any of them is opened.

`datasets` reads whatever README.md (and .huggingface.yaml) names as data_files: other folders of this machine, and
URLs. A dataset is a stranger's text, so only files inside its own folder or repository are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.images import is_inside

CARDS = ("README.md", ".huggingface.yaml")
_OUTSIDE = re.compile(r"^[/\\~]|^[A-Za-z]:|::|://|(^|[/\\])\.\.([/\\]|$)")


def check_card(what: str, card: Path) -> None:
    """Raise VisRLError when a card of a dataset names data files that lie outside. card: one of CARDS."""
    import yaml
    from huggingface_hub import DatasetCard

    try:
        if card.suffix == ".md":
            content = DatasetCard.load(card, ignore_metadata_errors=True).data.to_dict()
        else:
            content = yaml.safe_load(card.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())[:300]
        raise VisRLError(f"{what}: {card.name} cannot be read: {type(error).__name__}: {words}") from error
    configs = content.get("configs") if isinstance(content, dict) else None
    for config in configs if isinstance(configs, list) else ():
        if isinstance(config, dict):
            _check_inside(what, card.name, _texts([config.get("data_files"), config.get("data_dir")]))


def check_saved(folder: Path) -> None:
    """Raise VisRLError when a folder of `save_to_disk` has no readable state, or names files that lie outside."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise VisRLError(f"{folder}: state.json cannot be read: {type(error).__name__}: {error}"[:400]) from error
    _check_inside(str(folder), "state.json", names)
    check_files(str(folder), folder, [folder / name for name in names])


def check_files(what: str, folder: Path, files: Iterable[str | Path]) -> None:
    """Raise VisRLError for a file that is, or links to, something outside of the folder."""
    for file in files:
        if "://" in str(file) or not is_inside(Path(file).resolve(), folder):
            raise VisRLError(f"{what}: {str(file)[:200]!r} leads out of the folder, so it is not read.")


def _check_inside(what: str, name: str, paths: Iterable[str]) -> None:
    for path in paths:
        if _OUTSIDE.search(path):
            raise VisRLError(
                f"{what}: its {name} names the data files {path[:200]!r}. Only files inside the dataset are read. If "
                "you trust it, download them into the folder and correct the name."
            )


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a tree of lists and dicts, each branch once: YAML may repeat one without end."""
    branches, seen = [value], set()
    while branches:
        branch = branches.pop()
        if isinstance(branch, str):
            yield branch
        elif isinstance(branch, (list, dict)) and id(branch) not in seen:
            seen.add(id(branch))
            branches += branch.values() if isinstance(branch, dict) else branch
