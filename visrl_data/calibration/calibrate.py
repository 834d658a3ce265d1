"""Ask a critic about controlled cases whose verdict is known by construction (`visrl calibrate`). Start reading here.

    draw       N questions of the source, at random by seed; bad rows are dropped with reasons      drawing.py
    make       the cases of each question: right, wrong, or open            cases.py, answers.py, windows.py
    ask        one call a case, by the prompts and options of `visrl gen`                            asking.py
    store      verdicts, chunk by chunk; what was asked is not asked again                         verdicts.py
    measure    AUC, false wins and loses, shifts, agreement, the best thresholds                    measure.py
    report     what is wrong with this critic; report.json and report.html                 findings.py, page.py

No label is needed; with gold boxes there are more cases. Other thresholds need no new call.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.calibration import page, verdicts
from visrl_data.calibration.asking import Examiner
from visrl_data.calibration.calibration_report import CalibrationReport
from visrl_data.calibration.cases import SECOND_WORDING, CaseSettings, ControlCase, make_cases
from visrl_data.calibration.config import CalibrationConfig
from visrl_data.calibration.drawing import QuestionSample, draw_sample
from visrl_data.calibration.measure import measure_critic
from visrl_data.calibration.summary import summarize
from visrl_data.calibration.verdicts import CaseVerdict
from visrl_data.core import files, versions
from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet, load_prompts
from visrl_data.core.text import one_line
from visrl_data.engines.protocol import EngineLost, ModelIdentity, Role
from visrl_data.pipeline import factory, model_pair
from visrl_data.runs import calibrations
from visrl_data.runs.run_report import DropExample
from visrl_data.sources.protocol import Source

_VERSION = 1


@dataclass(frozen=True, slots=True)
class CalibrationProgress:
    """Reported before the first call and after each chunk. done, total: calls; questions: those drawn and read."""

    done: int
    total: int
    questions: int
    dropped: int
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class CriticSetup:
    """The critic that the options name, not loaded yet, and how it is asked. model: None on an engine of the caller.

    max_pixels: the bound of its pictures, which is that of the actor's.
    """

    model: model_pair.Model | None
    identity: ModelIdentity
    prompts: PromptSet
    crop_rule: CropRule
    max_pixels: int | None


def calibrate(
    config: CalibrationConfig,
    output: Path,
    on_chunk: Callable[[CalibrationProgress], None] = lambda _: None,
    role: Role | None = None,
) -> CalibrationReport:
    """Ask the critic, write report.json and report.html into the folder `output`, and return the report.

    role: a critic on an engine of your own, in place of loading the one that the options name. Raises VisRLError for
    anything that the user can fix; the verdicts received until then stay.
    """
    gen = config.gen_config()
    model_pair.check_engines(gen)
    source = factory.open_questions(gen)  # first: the critic's settings take seconds to read
    setup = _find_critic(config, gen, role)
    sample = draw_sample(source, config.questions, config.seed)
    chunks = _chunks(sample, config.chunk_size)
    files.make_folder(output)
    with files.lock_folder(output, lambda: verdicts.check_output(output)):
        verdicts.check_conditions(output, _conditions(config, setup, source))
        files.write_text(output / "config.toml", to_toml(config))
        if missing := verdicts.missing_chunks(output, len(chunks)):
            role = role or _load(gen, setup)
            examiner = Examiner(role, setup.prompts, source, sample.questions, gen, output)
            _ask_chunks(output, examiner, _cases(config, setup, sample, role), chunks, missing, sample, on_chunk)
        rows = verdicts.read_verdicts(output, len(chunks))
        report = _build_report(config, setup, source, sample, rows)
        files.write_json(output / "report.json", report)
        page.write_page(output, report, rows, sample.questions, source)
    calibrations.remember(summarize(report, output))
    return report


def default_output(config: CalibrationConfig) -> Path:
    """Return calibrations/<source>-<split>-<digest of the options on which verdicts depend>."""
    digest = hashlib.sha256(json.dumps(config.verdict_options(), sort_keys=True).encode()).hexdigest()[:8]
    return files.default_folder(calibrations.FOLDER, Path(config.source).stem or "source", config.split, digest)


def _find_critic(config: CalibrationConfig, gen: GenConfig, role: Role | None) -> CriticSetup:
    own = Path(config.prompts) if config.prompts else None
    if role is not None:
        identity: ModelIdentity = {**role.engine.identity(), "adapter": role.adapter}
        rule = model_pair.resolve_box_settings(gen, None)[1]
        return CriticSetup(None, identity, load_prompts(own), rule, config.max_pixels)
    actor = model_pair.find_actor(gen)
    critic = model_pair.find_critic(gen, actor)
    space, rule = model_pair.resolve_box_settings(gen, actor)
    bound = model_pair.resolve_max_pixels(gen, actor, space)  # the critic sees pictures as the actor does
    identity = {"engine": model_pair.critic_config(gen).engine, "model": critic.id, "revision": critic.revision}
    if critic.digest:
        identity["digest"] = critic.digest
    return CriticSetup(critic, identity, load_prompts(own), rule, bound)


def _load(gen: GenConfig, setup: CriticSetup) -> Role:
    assert setup.model is not None, "a caller's engine needs no model"
    options = dataclasses.replace(model_pair.critic_config(gen), max_pixels=setup.max_pixels)
    return model_pair.load_role(options, setup.model)


def _chunks(sample: QuestionSample, size: int) -> list[list[int]]:
    """Cut the drawn questions into chunks: the rows of each."""
    rows = list(sample.questions)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _cases(
    config: CalibrationConfig, setup: CriticSetup, sample: QuestionSample, role: Role
) -> dict[int, list[ControlCase]]:
    repeats = not role.engine.deterministic
    settings = CaseSettings(config.critics, setup.crop_rule, config.gold_rule, config.seed, repeats)
    return make_cases(sample.questions, settings)


def _conditions(config: CalibrationConfig, setup: CriticSetup, source: Source) -> dict[str, Any]:
    """Return everything that the verdicts depend on."""
    from visrl_data.engines import loading

    critic = {name: value for name, value in setup.identity.items() if name not in ("address", "served")}
    return {
        "options": config.verdict_options(),
        "device": loading.best_device() if config.device == "auto" else config.device,
        "critic": critic,
        "source": {"name": source.name, "rows": len(source), "fingerprint": source.fingerprint()},
        "prompts": _templates(setup.prompts),
        "wordings": {prompt.id: prompt.template for prompt in SECOND_WORDING.values()},
        "crop_rule": setup.crop_rule.as_dict(),
        "max_pixels": setup.max_pixels,
        "versions": versions.library_versions(),
    }


def _options(config: CalibrationConfig, setup: CriticSetup) -> dict[str, Any]:
    return dataclasses.asdict(config) | {"max_pixels": setup.max_pixels}


def _templates(prompts: PromptSet) -> dict[str, str]:
    return {prompt.id: prompt.template for prompt in (prompts.box_critic, prompts.response_critic)}


def _ask_chunks(
    output: Path,
    examiner: Examiner,
    cases: Mapping[int, Sequence[ControlCase]],
    chunks: Sequence[Sequence[int]],
    missing: Sequence[int],
    sample: QuestionSample,
    on_chunk: Callable[[CalibrationProgress], None],
) -> None:
    """Ask about the questions of the missing chunks, and store the verdicts of each chunk."""
    calls = [sum(len(cases[row]) for row in rows) for rows in chunks]
    total, done = sum(calls), sum(calls) - sum(calls[index] for index in missing)
    on_chunk(CalibrationProgress(done, total, len(sample.questions), len(sample.drops)))
    for index in missing:
        try:
            chunk = examiner.ask({row: cases[row] for row in chunks[index]})
        except EngineLost as error:
            raise VisRLError(
                f"{error}\n{done} of {total} verdicts are saved; so are the replies received since. When it answers "
                "again, run the same command to resume."
            ) from error
        verdicts.write_chunk(output, index, chunk)
        examiner.forget()
        done += calls[index]
        on_chunk(CalibrationProgress(done, total, len(sample.questions), len(sample.drops), examiner.take_events()))


def _build_report(
    config: CalibrationConfig,
    setup: CriticSetup,
    source: Source,
    sample: QuestionSample,
    rows: Sequence[CaseVerdict],
) -> CalibrationReport:
    thresholds = {
        "box": (config.box_win, config.box_lose),
        "response": (config.response_win, config.response_lose),
    }
    figures = {critic: measure_critic(critic, rows, thresholds[critic]) for critic in config.critics}
    templates = _templates(setup.prompts)
    return {
        "version": _VERSION,
        "key": calibrations.calibration_key(setup.identity, templates, _options(config, setup)),
        "critic": setup.identity,
        "source": {
            "source": config.source,
            "name": source.name,
            "split": source.split,
            "rows": len(source),
            "drawn": len(sample.rows),
            "fingerprint": source.fingerprint(),
        },
        "questions": len(sample.questions),
        "dropped": dict(sorted(Counter(drop.reason for drop in sample.drops).items())),
        "drop_examples": _examples(sample),
        "with_gold_boxes": sum(bool(question.gold_boxes) for question in sample.questions.values()),
        "calls": len(rows),
        "box": figures.get("box"),
        "response": figures.get("response"),
        "prompts": templates,
        "wordings": {prompt.id: prompt.template for prompt in SECOND_WORDING.values()},
        "crop_rule": setup.crop_rule.as_dict(),
        "deterministic": not any(verdict.variant == "repeat" for verdict in rows),
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "versions": versions.library_versions(),
    }


def _examples(sample: QuestionSample) -> list[DropExample]:
    """Return the first drop of each reason."""
    first = {drop.reason: drop for drop in reversed(sample.drops)}
    return [
        {"stage": drop.stage, "reason": reason, "id": drop.id, "detail": one_line(drop.detail)}
        for reason, drop in sorted(first.items())
    ]
