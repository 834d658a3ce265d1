"""Write report.html: the report, and a gallery of pairs to judge it by, as one page that needs nothing else.

After the report and before the manifest; written by every `visrl gen` and `visrl filter`, and again after `visrl
audit`; opened by `visrl inspect RUN --open`. Every figure of a run is in report.json; the page adds where boxes lie and
how scores spread over the labels (page_figures.py), what people marked (human_audit.py), and a sample of questions
with all that became of them (page_sample.py).

Questions, replies and names are hostile text here: Jinja2 escapes what a template puts out, the gallery's
data are JSON that HTML can't read, the page's script writes text nodes only, and the page's own policy
allows that one script and no request of any kind. Neither a time nor the run's own path is written, so
that a run made again has the same page.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup, escape

from visrl_data.core import files
from visrl_data.core.config import GenConfig
from visrl_data.core.drop_reasons import explain
from visrl_data.core.pair_rule import PairRule, rule_from
from visrl_data.core.text import embedded, shown
from visrl_data.report import page_figures, page_flow, page_sample
from visrl_data.report.accounting import value_counts
from visrl_data.report.formats import format_count, format_number, format_range, format_share
from visrl_data.report.human_audit import audit_by_people, human_lines, human_rows
from visrl_data.runs.manifest import RunIdentity, critic_identity
from visrl_data.runs.marks import FOLDER as MARKS
from visrl_data.runs.marks import read_marks
from visrl_data.runs.run_folder import Run
from visrl_data.runs.run_report import RunReport, drop_rows

NAME = "report.html"
MOST_SOURCES = 40  # rows of the table by source
_FOLDER = Path(__file__).parent


def write_page(
    run: Run, report: RunReport, questions: pa.Table, candidates: pa.Table, pairs: pa.Table, unpaired: pa.Table
) -> None:
    """Write the page of a compacted run under one filter setting."""
    text = render_page(run, run.config(), run.identity(), report, questions, candidates, pairs, unpaired)
    files.write_text(run.path / NAME, text)


def render_page(
    run: Run,
    config: dict[str, Any],
    identity: RunIdentity,
    report: RunReport,
    questions: pa.Table,
    candidates: pa.Table,
    pairs: pa.Table,
    unpaired: pa.Table,
) -> str:
    """Return the page of a compacted run under one filter setting.

    config, identity: the run's, or what of them may be published. report: of that setting; unpaired: the filter's
    drops; candidates: boxes, origins and scores are enough, the texts of those that are shown are read from the run.
    """
    settings = report["settings"]
    sample = page_sample.draw_sample(run, questions, pairs, unpaired, settings)
    gallery = {"positive_iou": settings["positive_iou"], "pairs": sample.pairs, "unpaired": sample.unpaired}
    sources = sorted(report["yields"]["by_source"].items(), key=lambda entry: (-entry[1]["rows_read"], entry[0]))
    human = audit_by_people(pairs, read_marks(run.path / MARKS), settings)
    style, script = asset("page.css"), asset("page_parts.js") + asset("page.js")
    values = {
        "report": report,
        "run": identity,
        "critic": critic_identity(identity, config),
        "config": config,
        "commands": commands(config, rule_from(settings)),
        "licenses": Counter(value_counts(questions["license"])).most_common(10),
        "sources": sources[:MOST_SOURCES],
        "flow": page_flow.flow_stages(report),
        "drops": drop_rows(report, candidates=True),
        "plots": page_figures.report_plots(report) | page_figures.label_plots(questions, candidates, pairs, report),
        "frame": page_figures.FRAME,
        "heat": page_figures.heat_maps(questions, candidates, pairs),
        "grid": page_figures.GRID,
        "human": human,
        "human_rows": human_rows(human) if human else [],
        "human_lines": human_lines(human) if human else [],
        "sample": sample,
        "side": page_sample.PICTURE_SIDE,
        "gallery": embedded(gallery),
        "style": style,
        "script": script,
        "policy": policy(style, script),
    }
    return environment().get_template("page.html.j2").render(values)


def commands(config: dict[str, Any], pair_rule: PairRule) -> list[str]:
    """Return the commands that make the run again: the options that are not the default, and the filter's."""
    words = ["visrl", "gen", *option_words(config, [spec.name for spec in dataclasses.fields(GenConfig)])]
    again = ["visrl", "filter", "RUN"]
    for name, value in dataclasses.asdict(pair_rule.thresholds).items():
        if value != config[name]:
            again += _flag(name, value)
    if config["box_critic"] and not pair_rule.box_critic:
        again.append("--no-box-critic")
    if pair_rule.lose != (config.get("lose") or "uniform"):
        again += _flag("lose", pair_rule.lose)
    return [shlex.join(words), *([shlex.join(again)] if len(again) > 3 else [])]


def option_words(config: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Return the flags of these options of a run, as far as they are not the default."""
    words = []
    for spec in dataclasses.fields(GenConfig):
        default = {} if spec.default is dataclasses.MISSING else spec.default
        if spec.name in names and spec.name in config and config[spec.name] != default:
            words += _flag(spec.name, config[spec.name])
    return words


def _flag(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, dict) and name == "images_root":  # one flag for each set
        roots = (f"{key}={root}" if key else root for key, root in sorted(value.items()))
        return [word for root in roots for word in _flag(name, root)]
    text = _pairs(value) if isinstance(value, dict) else f"{value}"
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _pairs(values: Mapping[str, Any]) -> str:
    """Return NAME=VALUE,... as a flag takes it."""
    return ",".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sorted(values.items()))


def asset(name: str, folder: Path = _FOLDER) -> Markup:
    """Return a style or a script of ours, which needs no escaping."""
    return Markup((folder / name).read_text(encoding="utf-8"))


def policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: this style, this script, pictures from the page itself, and nothing more."""

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; img-src data:; style-src {digest(style)}; script-src {digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def is_ours(page: str) -> bool:
    """Tell whether a page begins with the policy that allows the script of `write_page` alone, and leads nowhere."""
    style, script = asset("page.css"), asset("page_parts.js") + asset("page.js")
    head = f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_policy_tag(policy(style, script))}'
    return page.startswith(head) and not re.search(r"<meta[^>]*refresh", page, re.IGNORECASE)


def _policy_tag(text: str) -> str:
    return f'<meta http-equiv="Content-Security-Policy" content="{escape(text)}">'


@functools.cache
def environment(folder: Path = _FOLDER) -> jinja2.Environment:
    """Return an environment that escapes everything and bounds texts; an undefined name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: shown(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": format_count,
        "share": format_share,
        "number": format_number,
        "range": format_range,
        "explain": explain,
        "words": lambda name: name.replace("_", " "),
    }
    return environment
