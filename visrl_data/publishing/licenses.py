"""Decide under which license a dataset is published, and which pictures with it.

A step of dataset.py, between merging and writing. Nothing is guessed: a question keeps the license that its
source states; where none is stated the user must name one. A picture is published when its source says that it
may be, when the user says so, or when a merged version shows it already.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.errors import UsageError, VisRLError

# Licenses of data (and some of code) by the names that the Hub knows: https://hf.co/docs/hub/repositories-licenses
HUB_LICENSES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "wtfpl", "mpl-2.0", "zlib"),
    *("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "gfdl", "afl-3.0", "osl-3.0", "artistic-2.0"),
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "c-uda", "etalab-2.0", "eupl-1.1", "eupl-1.2"),
    *("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "odc-by", "odbl", "pddl", "unknown"),
}
_SPDX = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl", "c-uda-1.0": "c-uda", "cc0": "cc0-1.0"}


@dataclass(frozen=True, slots=True)
class SourceLicense:
    """One source under one license. withheld: pictures that the dataset leaves out.

    overruled: pictures that are published because the user said so although the source says that they may not be.
    """

    source: str
    license: str
    questions: int
    images: int
    withheld: int
    overruled: int


@dataclass(frozen=True, slots=True)
class LicenseTerms:
    """What the card says about licenses, and which pictures are published.

    id: a name that the Hub knows, or "other"; then name stands beside it, and the file LICENSE holds `text`.
    shipped: sha256 of the pictures that the dataset embeds.
    """

    id: str
    name: str
    text: str
    sources: tuple[SourceLicense, ...]
    shipped: frozenset[str]


def settle(
    questions: pa.Table,
    license: str | None,
    ship_images: bool | None,
    available: Container[str],
    published: frozenset[str] = frozenset(),
) -> tuple[pa.Table, LicenseTerms]:
    """Return the questions with a license each, and the terms of the dataset.

    license: for the questions whose source states none. ship_images: None goes by what the sources say,
    True embeds every picture, False none. available: sha256 of the pictures that can be embedded; the others were
    withheld by a dataset that is a part of this one. published: those that such a dataset shows already,
    which stay whatever their sources say.
    Raises VisRLError when a license is missing, UsageError when `license` contradicts what was stated.
    """
    questions = _with_licenses(questions, license)
    shipped = frozenset(sha for sha in _allowed(questions, ship_images, published) if sha in available)
    sources = tuple(_source_licenses(questions, shipped))
    names = sorted({hub_name(source.license) for source in sources})
    if len(names) == 1 and names[0] in HUB_LICENSES:
        return questions, LicenseTerms(names[0], "", "", sources, shipped)
    name = "mixed" if len(names) > 1 else re.sub(r"[^a-z0-9.-]+", "-", names[0]).strip("-.")[:60] or "see-license"
    return questions, LicenseTerms("other", name, _license_file(sources), sources, shipped)


def hub_name(license: str) -> str:
    """Write a license as the Hub does: "CC BY 4.0" and "CC-BY-4.0" are cc-by-4.0. Unknown ones keep their words."""
    name = re.sub(r"[\s_]+", "-", license.strip().lower())
    name = _SPDX.get(name, name.removesuffix("-only").removesuffix("-or-later"))
    return name if name in HUB_LICENSES else license.strip().lower()


def _with_licenses(questions: pa.Table, license: str | None) -> pa.Table:
    licenses = questions["license"]
    missing = pc.equal(pc.fill_null(licenses, ""), "")
    if not pc.any(missing).as_py():
        names = sorted(set(licenses.to_pylist()))
        if license and {hub_name(name) for name in names} != {hub_name(license)}:
            raise UsageError(
                f"--license {license}: every question states its license ({', '.join(names)}). "
                "The option is for questions that state none; leave it out."
            )
    elif not license:
        silent = questions.filter(missing)
        sources = ", ".join(sorted(set(silent["source"].to_pylist())))
        raise VisRLError(
            f"Under which license may {sources} be used? {silent.num_rows} of {questions.num_rows} questions state "
            "none, and a published dataset needs one. Add --license ID, for example --license cc-by-4.0 "
            "(--license unknown says openly that you don't know), or state it in the source's rows."
        )
    return fill_licenses(questions, license)


def fill_licenses(questions: pa.Table, license: str | None) -> pa.Table:
    """Write `license` where a source states none."""
    licenses = questions["license"]
    licenses = pc.if_else(pc.equal(pc.fill_null(licenses, ""), ""), pa.scalar(license or ""), licenses)
    return questions.set_column(questions.column_names.index("license"), "license", licenses)


def _allowed(questions: pa.Table, ship_images: bool | None, published: frozenset[str]) -> frozenset[str]:
    """Return the pictures to publish: a question that says no withholds its own, else one that says yes allows it."""
    images = questions["image_sha256"].to_pylist()
    if ship_images is not None:
        return frozenset(images if ship_images else ())
    answers = {(sha, says) for sha, says in zip(images, questions["ship_image"].to_pylist(), strict=True)}
    return frozenset(
        sha for sha in images if ((sha, True) in answers and (sha, False) not in answers) or sha in published
    )


def _source_licenses(questions: pa.Table, shipped: frozenset[str]) -> Iterable[SourceLicense]:
    columns = [questions[name].to_pylist() for name in ("source", "license", "image_sha256", "ship_image")]
    rows = list(zip(*columns, strict=True))
    for source, license in sorted({row[:2] for row in rows}):
        answers = [row[2:] for row in rows if row[:2] == (source, license)]
        images = {sha for sha, _ in answers}
        overruled = {sha for sha, may_ship in answers if may_ship is False} & shipped
        yield SourceLicense(source, license, len(answers), len(images), len(images - shipped), len(overruled))


def _license_file(sources: tuple[SourceLicense, ...]) -> str:
    lines = [
        "Licenses of this dataset",
        "",
        "Each row states its license in the column `license`, and where it comes from in `source`, `source_id`",
        "and `source_url`. It is what the source stated, or, where that stated none, who published the dataset.",
        "",
    ]
    for source in sources:
        images = f"{source.images} images, {source.images - source.withheld} of them published"
        lines.append(f"- {source.source}: {source.license} ({source.questions} questions, {images})")
    return "\n".join(lines) + "\n"
