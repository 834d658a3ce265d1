"""What every command prints: --quiet, --verbose, progress, colors, help, exit codes, completion, versions."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.command import visrl
from tests.helpers.hub_world import scripted_generate
from tests.tools import command_reference
from visrl_data.core.errors import Terminated
from visrl_data.executors import generation

ROOT = Path(__file__).parents[2]
VISRL = [sys.executable, "-m", "visrl_cli"]


def gen(source, target, *more):
    with scripted_generate():
        return visrl("gen", "--source", source, "-o", target, *more)


def test_notes_go_to_stderr_and_a_log_gets_lines_instead_of_bars(photo_source, tmp_path):
    code, out, err = gen(photo_source, tmp_path / "run")
    assert code == 0 and "Yields" in out
    assert "questions: 10 of 10\n" in err and "━" not in err
    assert f"The run is in {tmp_path}/run" in err


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "after it"])
def test_quiet_leaves_the_result_and_errors(photo_source, tmp_path, before):
    with scripted_generate():
        words = ["gen", "--source", photo_source, "-o", tmp_path / "run"]
        code, out, err = visrl(*(["-q", *words] if before else [*words, "--quiet"]))
    assert (code, err) == (0, "") and "Yields" in out
    code, out, err = visrl("--quiet", "inspect", tmp_path / "no")
    assert (code, out) == (1, "") and "no such folder" in err
    assert visrl("inspect", tmp_path / "run", "-q", "-v")[0] == 2
    code, out, err = gen(photo_source, tmp_path / "loud")
    assert code == 0 and err, "--quiet holds for one command only"


def test_a_bug_is_printed_in_short_and_in_full_without_secrets(photo_source, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such thing as hf_verysecret")

    monkeypatch.setattr(generation, "generate", broken)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    words = ["gen", "--source", photo_source, "-o", tmp_path / "run"]
    code, out, err = visrl(*words)
    assert (code, out) == (1, "") and "Traceback" not in err
    assert "RuntimeError: no such thing as ***" in err and "--verbose" in err
    code, _, err = visrl(*words, "--verbose")
    assert code == 1 and "Traceback" in err and "in broken" in err
    assert "hf_verysecret" not in err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (Terminated("Stopped at step 3"), 143), (OSError(28, "Full"), 1)]
)
def test_exit_codes(error, code, photo_source, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise error

    monkeypatch.setattr(generation, "generate", stopped)
    got, out, err = visrl("gen", "--source", photo_source, "-o", tmp_path / "run")
    assert (got, out) == (code, "") and "Traceback" not in err and err.splitlines()[-1].startswith("visrl: ")
    assert ("visrl: Interrupted. Nothing was written yet. Run the same command again." in err) == (code == 130)


@pytest.mark.parametrize(
    ("words", "place", "advice"),
    [
        (["ask"], "visrl_data.evaluation.ask.find_models", "Run the same command again."),
        (["inspect", "runs/photos"], "visrl_data.runs.opening.open_target", "Run the same command again."),
        (["train", "rl1"], "visrl_train.launch.train", "Run the same command again to resume."),
    ],
)
def test_only_what_resumes_says_so(words, place, advice, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    code, _, err = visrl(*words)
    assert code == 130 and err.endswith(f"visrl: Interrupted. {advice}\n")


@pytest.mark.parametrize(
    ("sent", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Stopped")]
)
def test_a_signal_keeps_what_is_done_and_says_how_to_resume(sent, code, word, untrained, tmp_path):
    words = ["gen", "--model", untrained, "--limit", "400", "--chunk-size", "1", "--max-new-tokens", "2"]
    child = subprocess.Popen(
        [*VISRL, *map(str, words), "-o", tmp_path / "run"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        # a shell's background job ignores Ctrl-C, and hands that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    first = tmp_path / "run" / "work" / "chunk-00000000"
    while not first.is_dir():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code and "Traceback" not in err.decode()
    assert first.is_dir()
    run = tmp_path / "run"
    assert f"visrl: {word}" in err.decode()
    assert f"kept in {run}. Resume with: visrl gen --config {run}/config.toml -o {run}\n" in err.decode()


def test_a_result_with_letters_that_the_locale_lacks_is_printed():
    code = "from visrl_cli import main; main.app = lambda: print('caf\u00e9 \u65e5'); main.main()"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, b"caf\xe9 \\u65e5\n"), done.stderr.decode()


def test_a_terminal_gets_bars(untrained, tmp_path):
    ours, theirs = pty.openpty()
    words = ["gen", "--model", untrained, "--limit", "2", "--max-new-tokens", "2", "-o", tmp_path / "run"]
    child = subprocess.Popen([*VISRL, *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as reading:  # raised when the other end closes
        while part := reading.read(65536):
            shown += part
    assert child.wait(60) == 0
    assert "━".encode() in shown


def test_no_color():
    def colors(**environment):
        done = subprocess.run(
            [*VISRL, "--help"], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True
        )
        return re.findall(r"\x1b\[(?:\d+;)?3\d", done.stdout)

    assert colors(FORCE_COLOR="1") and not colors(FORCE_COLOR="1", NO_COLOR="1") and not colors()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("visrl ins", "inspect"), ("visrl train r", "rl1 rl2 rloo-answers"), ("visrl gen --div", "--diversity")],
)
def test_bash_completes_commands_and_options(typed, offered):
    words = typed.split()
    request = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1), "_VISRL_COMPLETE": "complete_bash"}
    code = "import sys; sys.argv = ['visrl']; from visrl_cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | request, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == offered.split()


def test_version_names_python_and_the_libraries():
    code, out, _ = visrl("--version")
    versions = dict(line.split(" ", 1) for line in out.splitlines())
    assert code == 0 and out.startswith("visrl ")
    assert {
        "python",
        "torch",
        "transformers",
        "trl",
        "datasets",
        "peft",
    } <= versions.keys() and "pytest" not in versions


@pytest.mark.parametrize(("name", "command"), list(command_reference.commands()), ids=lambda part: str(part)[:30])
def test_help_at_80_columns_cuts_no_name_and_no_word(name, command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    context = command.make_context(name, [], resilient_parsing=True)
    command.format_help(context, None)
    out = capsys.readouterr().out
    words = out.replace("│", " ").split()
    for param in command.get_params(context):
        for option in (*param.opts, *param.secondary_opts):
            if option.startswith("-"):
                assert option in {word.strip(",") for word in words}
    assert "…" not in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("  ")), "but for long examples"
