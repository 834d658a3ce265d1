"""Spoilt replies and spoilt inputs: no exception, nothing wrong is taken, a long text costs no more than its length."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from decimal import Decimal
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tools.fuzz import FRAMES, fuzz
from visrl_data.core.config import GenConfig, load_config, to_toml
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import load_prompts, parse_score
from visrl_data.core.records import Question
from visrl_data.engines.completions import parse_completion
from visrl_data.executors import generation
from visrl_data.sources.dispatch import open_source


def test_spoilt_replies_are_read_right_or_refused_by_every_parser():
    """`python -m tests.tools.fuzz` does the same for 100,000."""
    counts, faults = fuzz(5000, seed=1)
    assert not faults, faults[:3]
    assert all(sum(states.values()) == 5000 for states in counts.values())
    assert all(states["ok"] >= 50 for states in counts.values()), "the fuzzer no longer writes what parsers accept"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ('{"score": ' + "1" * 400 + "}", "out_of_range"),
        ('{"score": ' + "1" * 5000 + "}", "bad_json"),
        ('{"score": ' + "[" * 100_000 + "]" * 100_000 + "}", "bad_json"),
        ('{"result": {"score": 0.8}, "score": 0.1}', "several_json"),
        ('{{"score": 0.8}}', "several_json"),
        ('{"score": 0.8} and {"score": 0.', "several_json"),
        ('{"score": \uff10.\uff18}', "bad_json"),
        ('{"score": 0.8\ud800}', "bad_json"),
    ],
)
def test_verdicts_that_once_broke_the_parser(reply, reason):
    assert parse_score(reply) == (None, reason)


@pytest.mark.parametrize(
    ("space", "reply"),
    [
        ("per_mille_tagged", "1e5 20 30 40"),
        ("per_mille_tagged", "12.3.4 5 6 7"),
        ("per_mille_tagged", "\u221212 3 14 15"),
        ("per_mille_tagged", "1,000 20 30 40"),
        ("per_mille_tagged", "1 2 3 4e5"),
        ("per_mille_tagged", "1 2 3 4\u0665"),
        ("per_mille_tagged", "0x12 3 14 15"),
        ("per_mille_points", "(1,2),(3,4),(5"),
        ("per_mille_points", "(0,1e2),(1,2),(3,4)"),
    ],
)
def test_no_box_is_made_of_parts_of_numbers(space, reply):
    bound = next(bound for bound in FRAMES if bound.space == space)
    assert bound.parse(reply) == (None, "no_box")


LONG = {
    "an opening mark without end": "[({<box>\"'",
    "brackets": "[]",
    "numbers": "1 ",
    "one number": "1",
    "points": "(1,2),",
    "points that stop": "(1 , 2 ) , (",
    "spaces in a point": "( ",
    "spaces": " ",
    "commas": "[1,",
    "locs": "<loc0001> ",
    "tags": "<box>1 2 3 4</box>",
    "objects": '{"score": 0.1}',
    "keys": '{"score":',
    "letters": "ab",
}


@pytest.mark.parametrize("piece", LONG.values(), ids=LONG)
def test_a_reply_of_100_kb_takes_every_parser_milliseconds(piece):
    """A pattern that backtracks would need minutes; the bound is wide, for busy machines."""
    for text in (piece * (100_000 // len(piece)), "[" + piece * (100_000 // len(piece)) + "x", "(1" + piece * 30_000):
        for parse in [parse_score, *(bound.parse for bound in FRAMES)]:
            start = time.process_time()
            parse(text)
            assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"score": 0.8} \ud83d', '{"score": 0.8} ?'),
        (None, ""),
        ("", ""),
        ([{"type": "text", "text": "x"}], None),
        (3, None),
    ],
)
def test_what_a_server_can_send_as_a_reply_is_text_that_a_file_can_hold_or_none(content, text):
    """JSON can spell half of a surrogate pair, and a list where a text belongs."""
    message = SimpleNamespace(content=content, refusal=None)
    completion = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")], usage=None)
    outcome = parse_completion(completion, key="")
    assert (outcome.text if outcome else None) == text


# -- rows ------------------------------------------------------------------------------------------------------------

VALUES = [
    None, "", " ", "seven", 7, -0.0, 1e308, 10**300, True, [], {}, [[]], [None], ["7", 7, None, []], {"bytes": None},
    {"bytes": "x", "path": 3}, "\ud800", "\x00", "0.png\x00", "../../etc/passwd", "http://[", "file:///etc/passwd",
    "a" * 5000, [0.1, 0.1, 0.4, 0.5], [[0.1, 0.1, 0.4]], [["a", "b", "c", "d"]], [[0.5, 0.5, 0.1, 0.1]],
    [[1e308, 0, 2, 3]], [[10**400] * 4],
    [[True, False, True, True]], {"a": {"b": {"c": [1, [2, [3]]]}}}, "\u202e<script>", "0.png",
]  # fmt: skip
FIELDS = ("id", "question", "answers", "answer", "image", "boxes", "box_space", "license", "ship_image", "source",
          "source_id", "source_url", "split", "unknown")  # fmt: skip
REASONS = {
    "bad_json", "bad_id", "no_question", "no_answer", "bad_answer", "bad_text", "bad_box", "bad_field",
    "several_images", "image_missing", "image_outside_root",
    "image_too_large", "image_too_small", "image_truncated", "image_unreadable",
    "image_url_refused",
}  # fmt: skip


def spoilt_rows(rng: random.Random, count: int) -> list[bytes]:
    """Good rows with one to three fields spoilt, and some whose bytes are spoilt too."""
    lines = []
    for i in range(count):
        row = {"id": f"q{i}", "question": "what?", "answers": ["7"], "image": "0.png", "boxes": [[0.1, 0.1, 0.4, 0.5]]}
        for _ in range(rng.randrange(1, 4)):
            field, value = rng.choice(FIELDS), rng.choice(VALUES)
            row[field] = f"{value}{i}" if field == "id" and isinstance(value, str) else value
            if rng.random() < 0.1:
                row.pop(field)
        line = json.dumps(row).encode()
        if rng.random() < 0.2:
            at = rng.randrange(len(line))
            junk = rng.choice([b"\xff", b"\x00", b"}", b"[" * 3000, b'"', b"NaN", b"1" * 6000, b""])
            line = line[:at] + junk + line[at + 1 :]
        lines.append(line)
    return lines


def sorted_out(source, count: int) -> Counter[str]:
    """States of all rows: "ok", or the reason of a drop."""
    read = [source.read(i) for i in range(len(source))]
    assert len(read) == count
    return Counter("ok" if isinstance(row, Question) else row.reason for row in read)


def test_spoilt_rows_are_questions_or_drops_with_a_reason(photo_source, scripted_roles, tmp_path):
    rng = random.Random(3)
    lines = [line for line in spoilt_rows(rng, 240) if b"\n" not in line]
    file = photo_source.parent / "spoilt.jsonl"
    file.write_bytes(b"\n".join(lines))
    try:
        source = open_source(str(file))
    except VisRLError as error:  # two rows that came to the same id
        raise AssertionError(str(error)) from error
    states = sorted_out(source, len(lines))
    assert set(states) <= REASONS | {"ok"} and states["ok"] >= 10 and len(states) >= 10, states
    config = GenConfig(source=str(file), chunk_size=50, attempts=1)
    run = generation.generate(config, tmp_path / "run", roles=scripted_roles)
    counts = run.manifest()["counts"]
    dropped = [drop for drop in run.table("drops").to_pylist() if drop["stage"] == "source"]
    assert counts["questions"] + len(dropped) == len(lines) and counts["questions"] == states["ok"]
    assert Counter(drop["reason"] for drop in dropped) == states - Counter({"ok": states["ok"]})


def test_tables_with_columns_of_any_type_are_rows_drops_or_one_message(photo_source):
    picture = (photo_source.parent / "0.png").read_bytes()
    columns = {
        "text": pa.array(["what?", None, ""]),
        "whole": pa.array([1, None, -(2**63)]),
        "float": pa.array([0.5, float("nan"), None]),
        "binary": pa.array([picture, b"", None]),
        "large": pa.array(["what?", "a", "b"], pa.large_string()),
        "list": pa.array([["7"], [], None]),
        "nested": pa.array([[[0.1, 0.1, 0.4, 0.5]], [[1.0]], None]),
        "struct": pa.array([{"bytes": picture, "path": "x"}, {"bytes": b"", "path": None}, None]),
        "time": pa.array([0, 1, None], pa.timestamp("us")),
        "null": pa.nulls(3),
        "bool": pa.array([True, False, None]),
        "decimal": pa.array([Decimal("1.5"), None, Decimal(7)]),
        "dictionary": pa.array(["what?", "a", None]).dictionary_encode(),
    }
    good = {"question": pa.array(["what?"] * 3), "answers": pa.array([["7"]] * 3), "image": pa.array([picture] * 3)}
    rng, ends = random.Random(5), Counter()
    for k in range(14):
        names = rng.sample([*good, *good, "boxes", "id", "license", "ship_image", "source"], 2)
        file = photo_source.parent / f"{k}.parquet"
        pq.write_table(pa.table(good | {name: rng.choice(list(columns.values())) for name in names}), file)
        try:
            states = sorted_out(open_source(str(file)), 3)
        except VisRLError as error:
            states = Counter({"refused": 1})
            assert str(file) in str(error) and "Traceback" not in str(error)
        assert set(states) <= REASONS | {"ok", "refused"}, states
        ends += states
    assert len(ends) >= 6 and ends["ok"], ends


# -- options ----------------------------------------------------------------------------------------------------------

JUNK = [
    "\x00",
    "[",
    "[[",
    "]",
    "=",
    '"',
    "'''",
    "nan",
    "1e999",
    "99999999999999999999",
    "\ud800",
    "{",
    "true",
    "\n",
    "-",
    "ü",
    "0x",
]


def test_spoilt_option_files_are_options_or_one_message(tmp_path):
    good = to_toml(GenConfig(source="spotlight", seed=3, limit=7))
    prompts = 'focus = "<image>\\n{question}"\nbox_critic = "<crop>\\n{question} {answer}"\n'
    rng, ends = random.Random(9), Counter()
    for k in range(300):
        for text, read in ((good, lambda f: load_config(f, {})), (prompts, load_prompts)):
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(text))
                text = text[:at] + rng.choice(JUNK) + text[at + rng.randrange(4) :]
            file = tmp_path / f"{k}.toml"
            file.write_bytes(text.encode("utf-8", "surrogatepass"))
            try:
                read(file)
                ends["read"] += 1
            except VisRLError as error:
                assert str(error)
                ends["refused"] += 1
    assert ends["refused"] > 300 and ends["read"] > 5, ends
