"""The documentation against the code: commands parse, the command reference is current, links lead somewhere."""

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from rich.markup import render

from tests.tools import command_reference
from visrl_cli import help
from visrl_cli.options import parse_options
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError
from visrl_data.evaluation.config import AskConfig, EvalConfig
from visrl_train.evolve_config import EvolveConfig
from visrl_train.launch import load_train_config
from visrl_train.stages import STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "visrl_data" / "spotlight" / "MODEL_CARD.md"])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The words before a command's own: a program, or python's way to start it, on one process or on several.
STARTS = (["visrl"], ["-m", "visrl_cli"])
RECIPE = re.compile(r"visrl_train\.(sft|rl1|rl2)$")
WRONG = (UsageError, AssertionError, typer.BadParameter.__base__)
OPTIONS = {"gen": (GenConfig,), "ask": (AskConfig,), "eval": (EvalConfig,), "evolve": (EvolveConfig, GenConfig)}


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, *languages):
    return [body for language, body in FENCE.findall(text_of(page)) if language in languages]


def command_lines(page):
    """The lines of shell blocks, with continued ones joined; a shell variable or sum stands for the number 1."""
    for body in blocks(page, "bash", "sh", "console"):
        for line in body.replace("\\\n", " ").splitlines():
            yield re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", line)


def arguments(line):
    """The words after `visrl` of the commands in a line, however they are started."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    ends = [i for i, word in enumerate(words) if set(word) <= set("();<>|&")]
    for begin, end in zip([-1, *ends], [*ends, len(words)], strict=True):
        part = words[begin + 1 : end]
        for i in range(len(part)):
            before = [Path(part[i]).name] if "/" in part[i] else part[max(i - 1, 0) : i + 1]
            if before in STARTS or before[-1:] in STARTS:
                yield part[i + 1 :]
                break
            if RECIPE.match(part[i]) and part[i - 1] == "-m":
                yield ["train", RECIPE.match(part[i])[1], *part[i + 1 :]]
                break


COMMANDS = sorted({shlex.join(words) for page in PAGES for line in command_lines(page) for words in arguments(line)})


def find_command(words):
    """The command that the first words name, its full name, and the words left over."""
    command, name = command_reference.root(), []
    while words and hasattr(command, "commands") and words[0] in command.commands:
        name.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return command, " ".join(name), words


def check(words):
    """Parse a command as the program does, and check its values, without running it."""
    command, name, rest = find_command(list(words))
    if rest in (["--help"], ["--version"], ["--install-completion"]):
        return
    assert not hasattr(command, "commands"), f"{name or 'visrl'} needs a command"
    values = parse_options(command.make_context(name, rest).params)
    for parameter in command.params:
        choices = (parameter.metavar or "").split("|")
        if len(choices) > 1 and parameter.metavar.islower() and parameter.name in values:
            assert values[parameter.name] in choices, f"{parameter.name} {values[parameter.name]}: not of {choices}"
    if name.startswith("train "):
        stage = name.removeprefix("train ")
        file = values.get("config")
        preset = file if file is None or not str(file).endswith(".toml") else None  # a file of the reader's is not here
        load_train_config(stage, preset, only(STAGES[stage].config, values))
    for kind in OPTIONS.get(name, ()):
        kind(**only(kind, values))


def only(kind, values):
    return {key: value for key, value in values.items() if key in kind.__dataclass_fields__}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    check(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    [
        "gen --nonsense 1",
        "gen --attempts 0",
        "gen --diversity some",
        "gen --box-win 0.1 --box-lose 0.5",
        "export runs/a --format yolo -o out",
        "train rl1 --config no-such-preset",
        "train rl1 --quantize --full",
        "rebuild me/cars",
        "train",
    ],
)
def test_a_wrong_command_would_be_found(command):
    with pytest.raises(WRONG):
        check(shlex.split(command))


def test_commands_are_found_however_they_are_started():
    assert list(arguments("visrl gen && .venv/bin/visrl push a b  # note")) == [["gen"], ["push", "a", "b"]]
    assert list(arguments("accelerate launch --x a.yaml -m visrl_cli train rl1 -o b")) == [["train", "rl1", "-o", "b"]]
    assert list(arguments("torchrun -m visrl_train.rl2 --full")) == [["train", "rl2", "--full"]]
    assert list(arguments("CUDA_VISIBLE_DEVICES=0 visrl gen --limit 5 &")) == [["gen", "--limit", "5"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_files_of_the_project_in_commands_exist(page):
    for line in command_lines(page):
        for module in re.findall(r"-m ((?:tests|studies|visrl_\w+)[\w.]*)", line):
            assert importlib.util.find_spec(module), f"{page.name}: {line}"
        for file in re.findall(r"(?:--config_file |pytest .*)((?:visrl_\w+|tests)/[\w/.]+)", line):
            assert (ROOT / file).exists(), f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_running_text_exist(page):
    plain = FENCE.sub("", text_of(page))
    for span in re.findall(r"`visrl ([^`]*)`", plain):
        command, _, rest = find_command(span.split())
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--install-completion"}
        assert {word for word in rest if word.startswith("--")} <= known, f"`visrl {span}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_other_code_is_well_formed(page):
    for body in blocks(page, "python"):
        ast.parse(body)
    for body in blocks(page, "toml"):
        tomllib.loads(body)
    for body in blocks(page, "json"):
        for document in [body] if body.startswith("{\n") else body.splitlines():  # one, or a line each
            json.loads(document)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists() and there.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(text_of(there)), f"{page.name}: {target}"


def anchors(text):
    """What GitHub makes of the headings."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_no_text_speaks_of_a_version_to_come():
    with open(ROOT / "pyproject.toml", "rb") as file:
        current = tomllib.load(file)["project"]["version"]
    packages = [path for name in ("visrl_data", "visrl_train", "cli", "cards") for path in (ROOT / name).rglob("*.py")]
    named = {
        (page.name, version)
        for page in [*PAGES, *packages]
        for version in re.findall(r"(?:versions?|reports|runs) (?:before|since) (\d+\.\d+)", text_of(page))
    }
    assert not [one for one in named if [*map(int, one[1].split("."))] > [*map(int, current.split("."))][:2]]


def test_every_page_is_in_the_index():
    index = text_of(ROOT / "docs" / "README.md")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing in ([], ["README.md"])


def test_the_command_reference_is_current():
    assert text_of(ROOT / "docs" / "commands.md") == command_reference.page(), (
        "docs/commands.md is out of date; make it again: python -m tests.tools.command_reference > docs/commands.md"
    )


@pytest.mark.parametrize(("name", "command"), list(command_reference.commands()), ids=lambda part: str(part)[:30])
def test_every_command_has_help_and_an_example_that_parses(name, command):
    assert f"{name}" in re.split(r"\nExamples?:\n", command.help)[1]
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}: no help"
        assert parameter.metavar or parameter.is_flag, f"{name} {parameter.name}: no metavar, a word for its value"
        shown = render(parameter.help).plain
        assert shown == help.plain(parameter.help), f"{name} {parameter.name}: markup eats a part of it"
