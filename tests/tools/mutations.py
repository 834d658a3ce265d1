"""Would the tests notice if a key line were wrong?  python -m tests.tools.mutations [WORD...]

Each of MUTATIONS puts one mistake into a copy of the project and runs the test files that should notice it. Before
that the same files must pass on the copy as it is, else "caught" would mean nothing. Prints a table; exits with 1
when a mutation survived or its place is not there any more. WORD: only the mutations that hold one of the words.
test_mutations.py keeps the places current.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = {"cli": "visrl_cli", "cards": "visrl_cards"}  # folders that install under another name
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "models", "*-work")
SECONDS = 600  # for one test file; one that takes longer hangs


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mistake: the text `right`, which stands exactly once in `file`, becomes `wrong`; `tests` should notice."""

    what: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


def _m(what: str, file: str, right: str, wrong: str, *tests: str) -> Mutation:
    return Mutation(what, file, right, wrong, tuple(f"tests/{test}.py" for test in tests))


_BOXES, _FILTER, _SAMPLING = (
    "visrl_data/core/boxes.py",
    "visrl_data/pipeline/pairing.py",
    "visrl_data/pipeline/actor.py",
)
_EQ3, _STEPS = "visrl_data/pipeline/diversity.py", "visrl_data/publishing/hub_repo.py"
_LOSS, _ROWS = "visrl_train/preference.py", "visrl_data/publishing/dataset_rows.py"
_KEY = "keyed_seed(config.seed, config.round, view.question.id, attempt, slot, purpose)"

MUTATIONS = (
    _m("loc tokens are read x first", "visrl_data/core/box_formats.py",
       "for y1, x1, y2, x2 in (run", "for x1, y1, x2, y2 in (run", "core/test_boxes"),
    _m("the padding is all before the image", _BOXES, "((longer - side) // 2)", "(longer - side)", "core/test_boxes"),
    _m("a box that reaches into the padding is not cut", _BOXES,
       "            min(max(round(value), axis.low), axis.high) for value, axis in zip(written",
       "            round(value) for value, axis in zip(written", "core/test_boxes"),
    _m("the last cell of a space is out of range", _BOXES, "<= value <= axis.top", "<= value < axis.top",
       "core/test_boxes"),
    _m("the crop's side follows the shorter side", "visrl_data/core/crops.py",
       "rule.min_side * max(size)", "rule.min_side * min(size)", "core/test_boxes"),
    _m("a crop grows to one side", "visrl_data/core/crops.py",
       "start - (length - (end - start)) // 2", "start", "core/test_boxes"),
    _m("Eq. 3: a second box at tau is replaced", _EQ3,
       "iou(box, second) <= tau", "iou(box, second) < tau", "pipeline/test_diversity"),
    _m("Eq. 3: the area may be too large", _EQ3,
       "1 - grown, 1 + grown)", "1 - grown, 1 + 2 * grown)", "pipeline/test_diversity"),
    _m("Eq. 3: boxes may overlap", _EQ3, "start = max(start, bottom)", "start = max(start, bottom - 1)",
       "pipeline/test_diversity"),
    _m("both boxes of an attempt have one seed", _SAMPLING, _KEY, _KEY.replace(" slot,", ""), "pipeline/test_factory"),
    _m("box and answer have one seed", _SAMPLING, _KEY, _KEY.replace(", purpose", ""), "pipeline/test_factory"),
    _m("all questions have the same seeds", _SAMPLING, _KEY, _KEY.replace(" view.question.id,", ""),
       "pipeline/test_factory"),
    _m("all rounds have the same seeds", _SAMPLING, _KEY, _KEY.replace(" config.round,", ""), "pipeline/test_factory"),
    _m("a score of 7 is one", "visrl_data/core/prompts.py",
       "not 0 <= score <= 1:", "not 0 <= score <= 10:", "core/test_prompts"),
    _m("an unparsed verdict is a 0", "visrl_data/pipeline/critics.py",
       'Score(None, f"unparsed:{state}', 'Score(0.0, f"unparsed:{state}', "pipeline/test_factory"),
    _m("Eq. 4: a score at tau_win does not win", "visrl_data/core/pair_rule.py",
       "score >= win", "score > win", "pipeline/test_pairing"),
    _m("Eq. 4: a score at tau_lose does not lose", "visrl_data/core/pair_rule.py",
       "score <= lose", "score < lose", "pipeline/test_pairing"),
    _m("Eq. 4: the lose is the best of the bad", "visrl_data/core/pair_rule.py",
       "in_lose, np.minimum)", "in_lose, np.maximum)", "pipeline/test_pairing"),
    _m("actor-first takes the controller's box first", "visrl_data/core/pair_rule.py",
       "np.where(is_actors, 1.0, 0.0)", "np.where(is_actors, 0.0, 1.0)", "pipeline/test_lose"),
    _m("a box of the controller has the likelihood of another", _SAMPLING,
       'None if origin == "controller" or reply.logprob is None', "None if reply.logprob is None",
       "pipeline/test_lose"),
    _m("a likelihood goes on behind the end of the reply", "visrl_data/engines/transformers.py",
       "math.fsum(logprobs[:used])", "math.fsum(logprobs)", "engines/test_logprobs"),
    _m("ties are drawn alike under every seed", _FILTER,
       'keyed_seed(seed, "pair"', 'keyed_seed(0, "pair"', "pipeline/test_pairing"),
    _m("lost attempts leave no drop", "visrl_data/pipeline/factory.py",
       "drops += result.drops", "pass", "pipeline/test_factory"),
    _m("counts may be short of the total", "visrl_data/report/accounting.py",
       "if total != sum(", "if total < sum(", "report/test_run_statistics"),
    _m("half a chunk stands where a whole one is looked for", "visrl_data/runs/run_folder.py",
       'temporary = target.with_suffix(".tmp")', "temporary = target", "pipeline/test_factory"),
    _m("a changed file of a dataset is taken", "visrl_data/runs/dataset_folder.py",
       " or file_digest(dataset.folder / path) != sha:", ":", "publishing/test_merge"),
    _m("an image's published pairs are in both splits", _ROWS,
       'yield split_of(sha), {**row, "image"', 'yield split_of(row["id"]), {**row, "image"', "publishing/test_dataset"),
    _m("an image trains and validates", "visrl_train/stage_folder.py",
       'split_of(row["image"], share)', 'split_of(row["id"], share)', "train/test_chain"),
    _m("the loss prefers the lose", _LOSS,
       "F.logsigmoid(reward_chosen - reward_rejected)", "F.logsigmoid(reward_rejected - reward_chosen)",
       "train/test_loss"),
    _m("the box's beta is on the response", _LOSS, "beta[:pairs] = ", "beta[pairs:] = ", "train/test_loss"),
    _m("a commit's digests are not compared", _STEPS,
       "lambda: differing(repo, commit, files), AGAIN)", "list)", "publishing/test_loopback_hub"),
    _m("a commit is not read back", _STEPS,
       "others = differing_bytes(repo, commit, files)", "others = []",
       "publishing/test_hub_repo"),
    _m("the actor judges itself", "visrl_data/pipeline/model_pair.py",
       "return role, Role(role.engine, False)", "return role, Role(role.engine, True)", "models/test_models"),
    _m("the adapter stays on for the critic", "visrl_data/engines/transformers.py",
       "adapter(self.model, batch[0].adapter)", "adapter(self.model, True)", "engines/test_engines"),
)  # fmt: skip


def main() -> None:
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.what} {m.file} {m.right}" for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder) / "visrl")
        files = sorted({test for mutation in chosen for test in mutation.tests})
        outcome, by, seconds = run(copy, files)
        if outcome != "survived":
            sys.exit(f"The tests do not pass as they are ({by}), so they can't tell anything.")
        print(f"{len(files)} test files pass as they are, in {seconds:.0f} s.", flush=True)
        outcomes = [tried(mutation, copy) for mutation in chosen]
    caught = outcomes.count("caught")
    print(f"{caught} of {len(outcomes)} mutations were caught.")
    sys.exit(caught < len(outcomes))


def copied(target: Path) -> Path:
    """A copy of the project whose packages are found under the names that they install under."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for folder, name in NAMES.items():
        (target / name).symlink_to(folder)
    return target


def tried(mutation: Mutation, copy: Path) -> str:
    """Run the tests under one mutation, undo it, and print its line of the table."""
    path = copy / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.right) != 1:
        outcome, by, seconds = "no place", "", 0.0
    else:
        path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
        outcome, by, seconds = run(copy, mutation.tests)
        path.write_text(text, encoding="utf-8")
    print(f"{outcome:8} {seconds:4.0f} s  {mutation.what:55} {mutation.file}: {by}", flush=True)
    return outcome


def run(copy: Path, tests: tuple[str, ...] | list[str]) -> tuple[str, str, float]:
    """Run test files in the copy up to the first failure: outcome, what failed, seconds.

    "caught" takes a test that fails; what can't be collected or set up, or has no end, says nothing: "broken".
    """
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    begun, limit = time.monotonic(), SECONDS * len(tests)
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "broken", "no end", limit
    failed = re.search(r"^(FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    by = failed[2].partition("::")[2] if failed else done.stdout[-300:]
    outcome = "survived" if done.returncode == 0 else "caught" if failed and failed[1] == "FAILED" else "broken"
    return outcome, by if done.returncode else "", time.monotonic() - begun


if __name__ == "__main__":
    main()
