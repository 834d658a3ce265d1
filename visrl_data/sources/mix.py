"""Read several sources as one: the parts of a TOML file, with counts or weights, and SFT and RL questions kept apart.

    visrl gen --mix mix.toml --limit 1000                the RL questions (--split train)
    visrl train sft --mix mix.toml                       the SFT questions (--split sft)
    visrl gen --mix paper:metadata/ --images-root cot=images/    the paper's Table 7, mixes/paper.toml

A part is a table of the file. Its name becomes the `source` of its questions, so that yields are reported part by
part, and the prefix of their ids:

    [signs]
    source = "photos.jsonl"     as --source takes it; {path} is what follows the name of the mix
    split = "train"             of the source; its rows are split between SFT and RL (the default)
    sft = 400                   rows for SFT; default: about a seventh, the paper's share
    train = 3000                rows for RL; default: all others
    weight = 2                  its share in every prefix of the mix; default: the number of its rows
    columns = {question = "q"}  and gold_space, gold_format, license, ship_images, like the options of the same names

Rows come in the order of a hash of their ids; the first are for SFT. Sources with splits sft and train of their own
(spotlight, visual-cot-train) keep them unless `split` is given. Any other --split is passed on unchanged. The parts
are interleaved by weight, so that --limit shortens all of them alike. `--images-root NAME=...` may name a part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import expand_home
from visrl_data.core.records import Drop, Question
from visrl_data.sources.identity import halves, interleaved, sft_rows
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.protocol import Source, check_index

SHIPPED = Path(__file__).parent / "mixes"
PAPER_SHARE = (30647, 180000)  # SFT and RL questions in all, Table 7
_OWN_SPLITS = ("spotlight", "visual-cot-train")
_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPart:
    """One table of the file; its fields are described above."""

    name: str
    source: str
    split: str = ""
    sft: int | None = None
    train: int | None = None
    weight: float | None = None
    columns: dict[str, str] = field(default_factory=dict)
    gold_space: str = "unit"
    gold_format: str = "xyxy"
    license: str = ""
    ship_images: bool | None = None

    def row_options(self) -> list[dict[str, Any]]:
        """Return its options of how rows are read, in a list; an empty one where all have their default values."""
        plain = MixPart(name="", source="")
        names = ("columns", "gold_space", "gold_format", "license", "ship_images")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(plain, name)}
        return [changed] if changed else []

    def count(self, split: str) -> int | None:
        """Return the number of rows that the file sets for split sft or train."""
        return {"sft": self.sft, "train": self.train}.get(split)


@dataclass(frozen=True, slots=True)
class _PartSource:
    """The source of a part, and the numbers and ids of its rows in the mix, in order."""

    part: MixPart
    source: Source
    rows: list[int]
    ids: list[str]


class MixSource:
    """The parts of a mix as one Source. name: FILE.toml, or the name of a shipped mix, with :PATH for its {path}.

    open_source: opens each part; dispatch.py passes its own.

    Raises VisRLError when the file or a part cannot be opened, or has no row in the split.
    """

    def __init__(
        self, name: str, split: str, limit: int | None, options: SourceOptions, open_source: Callable[..., Source]
    ) -> None:
        if options.columns or options.license:
            raise VisRLError("--columns and --license do not apply to a mix: its file sets them for each part.")
        self.split = split
        file, path = _file_and_path(name)
        self.name = f"mix-{file.stem}"
        parts = read_mix(file, path)
        self._parts = [_open(part, split, options, open_source) for part in parts]
        counts = [len(one.rows) for one in self._parts]
        weights = [one.part.weight or len(one.rows) for one in self._parts]
        self._order = list(interleaved(counts, weights))[:limit]
        if not self._order:
            raise VisRLError(f"--mix {file}: no part has a row in split {split!r}.")

    def fingerprint(self) -> str:
        """Return a digest of the parts: names, fingerprints of their sources, their rows in the mix, and their options.

        Options with their default values are left out: mixes that name none have the digest that they always had.
        """
        digest = hashlib.sha256()
        for one in self._parts:
            row = [one.part.name, one.part.weight, one.source.fingerprint(), one.ids, *one.part.row_options()]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._order)

    def ids(self) -> list[str]:
        return [f"{self._parts[p].part.name}/{self._parts[p].ids[k]}" for p, k in self._order]

    def read(self, i: int) -> Question | Drop:
        """Read row i. Raises IndexError."""
        check_index(i, len(self._order))
        p, k = self._order[i]
        part, source = self._parts[p].part, self._parts[p].source
        row = source.read(self._parts[p].rows[k])
        row = dataclasses.replace(row, id=f"{part.name}/{row.id}", source=part.name)
        return dataclasses.replace(row, split=self.split) if isinstance(row, Question) else row


def read_mix(file: Path, path: str = "") -> list[MixPart]:
    """Read the parts of a mix; `path` replaces {path} in their sources. Raises VisRLError."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VisRLError(f"--mix {file}: {error}") from error
    if not tables:
        raise VisRLError(f'--mix {file}: no part. Expected tables such as [signs] with source = "photos.jsonl".')
    parts = [_part(file, name, table) for name, table in tables.items()]
    if not path and any("{path}" in part.source for part in parts):
        raise VisRLError(f"--mix {file.stem}: its data is not known. Name its folder: --mix {file.stem}:PATH.")
    return [dataclasses.replace(part, source=part.source.replace("{path}", path)) for part in parts]


def _file_and_path(text: str) -> tuple[Path, str]:
    file = expand_home(text)
    if file.is_file():
        return file, ""
    name, _, path = text.partition(":")
    for file in (SHIPPED / f"{name}.toml", expand_home(name)):
        if _NAME.fullmatch(file.name) and file.is_file():
            return file, path
    shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
    raise VisRLError(f"--mix {text}: no such file. Expected a TOML file of parts, or a shipped mix: {shipped}.")


def _part(file: Path, name: str, table: Any) -> MixPart:
    types: dict[str, Any] = {
        **dict.fromkeys(("source", "split", "gold_space", "gold_format", "license"), str),
        **dict.fromkeys(("sft", "train"), int),
        **{"weight": (int, float), "columns": dict, "ship_images": bool},
    }
    where = f"--mix {file}: [{name}]"
    if not isinstance(table, Mapping) or "source" not in table:
        raise VisRLError(f'{where}: expected a table with source = "...".')
    if not _NAME.fullmatch(name):
        raise VisRLError(f"{where}: a part's name may have letters, digits, _, - and dots.")
    for key, value in table.items():
        if key not in types:
            raise VisRLError(f"{where}: unknown {key!r}; expected {', '.join(types)}.")
        if not isinstance(value, types[key]) or (isinstance(value, bool) and key != "ship_images"):
            raise VisRLError(f"{where}: {key} = {value!r} is of the wrong type.")
        if key in ("sft", "train", "weight") and not (0 < value < math.inf or (value == 0 and key != "weight")):
            raise VisRLError(f"{where}: {key} = {value!r}: expected {'above' if key == 'weight' else 'at least'} 0.")
    if table["source"].startswith("mix:"):
        raise VisRLError(f"{where}: a mix cannot be a part of a mix. Name its parts here.")
    return MixPart(name=name, **table)


def _open(part: MixPart, split: str, options: SourceOptions, open_source: Callable[..., Source]) -> _PartSource:
    has_own_splits = part.source.partition(":")[0] in _OWN_SPLITS and not part.split
    is_divided = split in ("sft", "train") and not has_own_splits
    count = part.count(split)
    try:
        part_options = dataclasses.replace(
            options,
            images_root=_roots(part, options),
            columns=part.columns,
            gold_space=part.gold_space,
            gold_format=part.gold_format,
            license=part.license,
            ship_images=False if options.ship_images is False else part.ship_images,
        )
        limit = count or None if has_own_splits else None
        source = open_source(part.source, (part.split or "train") if is_divided else split, limit, part_options)
    except VisRLError as error:
        raise VisRLError(f"Part [{part.name}] of the mix: {error}") from error
    ids = source.ids()
    rows = list(range(len(ids)))
    if is_divided:
        sft = sft_rows(len(ids), *PAPER_SHARE) if part.sft is None else part.sft
        rows = halves([_key(name) for name in ids], sft, part.train or 0)[split == "train"]
    if count is not None:
        rows = rows[:count]
    return _PartSource(part, source, rows, [ids[i] for i in rows])


def _key(name: str) -> str:
    """Drop the number of a repeated row from its id: equal rows of a .jsonl file must stay together."""
    return re.sub(r"^(q-[0-9a-f]{16})-\d+$", r"\1", name)


def _roots(part: MixPart, options: SourceOptions) -> Any:
    """Make the part's own root its default; those of other parts may still be names of sets or folders.

    Spotlight, which draws its images and takes no root, gets none: the option is for the other parts.
    """
    roots = options.images_root
    if part.source.partition(":")[0] == "spotlight":
        return None
    if not isinstance(roots, Mapping) or part.name not in roots:
        return roots
    return {**roots, "": roots[part.name]}
