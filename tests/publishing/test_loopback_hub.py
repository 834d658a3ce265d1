"""Releases end to end: the real clients against the loopback Hub; and the loopback Hub against git."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.loopback_git import Blob, Repo, pointer, tree_id

ROOT = Path(__file__).parents[2]


def run_module(*arguments, timeout=280):
    """A module of tests in a process of its own, with none of the user's Hub settings. Returns its JSON."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "hf_Loopback" not in done.stdout + done.stderr, "the token was shown"
    assert done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told():
    return run_module("tests.tools.hub_scenarios")


def test_ids_are_those_of_git(tmp_path):
    """A commit with nested folders whose names sort differently as files and as folders, and its child."""
    repo = Repo("datasets", "user/pairs")
    files = {
        "a/b/c.txt": Blob(b"c", 1),
        "a.b": Blob(b"", 0),
        "a-b/x": Blob(b"x", 1),
        "z.parquet": pointer("ab" * 32, 7),
    }
    first = repo.commit("heads/main", files, "one")
    second = repo.commit("heads/main", {**files, "README.md": Blob("é\n".encode(), 3)}, "two\n\nbody", first.oid)

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("init", "-q", ".")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not installed")
    for commit in (first, second):
        for path, blob in commit.files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(blob.data)
        git("add", "-A")
        assert git("write-tree") == tree_id(commit.files)
        who = f"user <user@loopback> {commit.date} +0000"
        parent = f"parent {commit.parent}\n" if commit.parent else ""
        text = f"tree {tree_id(commit.files)}\n{parent}author {who}\ncommitter {who}\n\n{commit.message}"
        (tmp_path / ".git" / "message").write_text(text)
        assert git("hash-object", "-t", "commit", "-w", ".git/message") == commit.oid


def test_only_this_machine_can_be_reached(told):
    assert all("a test wants to" in message for message in told["guard"].values())


def test_two_versions_load_by_their_tags(told):
    found = told["two_versions"]
    assert found["states"] == [["published", "v1.0"], ["published", "v1.1"]]
    assert found["rows"] == [{"train": 4, "validation": 2}, {"train": 7, "validation": 2}]
    assert found["candidates"] == 12
    assert found["picture"] == [True, True], "decoded, and the pixels that were drawn"
    assert found["streamed"] == [4, [40, 30], "train-3"]
    assert found["snapshot"] == [], "files that differ"
    assert found["changes"][:2] == ["preferences/train: 4 -> 7 rows", "candidates/train: 12 -> 21 rows"]
    assert found["card"]


def test_a_version_is_one_commit(told):
    assert told["two_versions"]["commits"] == ["Release v1.1", "Release v1.0", "initial commit"]


def test_the_default_config_is_what_loads_without_a_name(told):
    assert told["default_config"] == {"columns": ["id", "images", "score"], "rows": 7}


def test_the_same_content_again_changes_nothing(told):
    found = told["same_again"]
    assert found["states"] == ["unchanged", "unchanged"] and found["same_commit"]


def test_older_content_is_a_new_version_and_no_tag_moves(told):
    found = told["same_again"]
    assert found["older_content"] == ["published", "v1.2"] and found["commits"] == 1 and found["head_is_newest_tag"]
    assert "never moved" in found["moved"] and "Nothing was sent" in found["moved"]


def test_a_breaking_change_of_schema_must_be_meant(told):
    found = told["schema"]
    assert found["more"] == ["v1.1", "preferences: column note (string) is new"]
    assert "column note is gone" in found["less"] and "--allow-schema-change" in found["less"]
    assert "score was float64, is int64" in found["other"]
    assert found["meant"] == "v2.0"


def test_a_dry_run_tells_and_sends_nothing(told):
    found = told["schema"]
    assert found["dry"] == ["dry-run", "v2.1", ["preferences/train: 6 -> 3 rows", "candidates/train: 18 -> 9 rows"]]
    assert found["refs"] == ["heads/main", "tags/v1.0", "tags/v1.1", "tags/v2.0"]


def test_deletions_are_in_the_same_commit_and_files_made_by_hand_stay(told):
    found = told["deletions"]
    assert found["deleted"] == ["- data/candidates/train-00001-of-00002.parquet"]
    assert found["gone"] and found["kept"]
    assert found["parents"] == ["Release v1.1", "by hand", "Release v1.0", "initial commit"]


def test_what_is_refused_is_told_before_anything_is_sent(told):
    found = told["refused"]
    assert "is public, and you asked for --private. Nothing was sent" in found["public"]
    assert "data/train.parquet. Nothing was sent" in found["foreign"]
    assert "403" in found["namespace"] and "another --hub-id" in found["namespace"]
    assert found["private"] == ["published", True]
    assert "does not accept the token (401" in found["bad token"] and "hf auth login" in found["bad token"]
    assert "no Hub token on this machine" in found["no token"]


def test_a_rate_limit_is_waited_for_as_long_as_is_sensible(told):
    assert "asks for 1000 s" in told["refused"]["rate limit"]
    assert told["refused"]["short limit"] == "unchanged"


def test_a_silent_connection_is_given_up_and_tried_again(told):
    found = told["stalled"]
    assert found["state"] == "published"
    assert [line.partition(":")[0] for line in found["again"]] == ["looking at the repository", "committing"]


def test_a_commit_that_is_not_what_was_sent_gets_no_tag(told):
    found = told["not_as_sent"]
    assert "does not hold what was sent" in found["ignored"] and "manifest.json, report.json" in found["ignored"]
    assert found["tags"] == []


def test_a_tag_that_somebody_else_made_meanwhile_stays(told):
    found = told["not_as_sent"]
    assert "never moved" in found["raced"] and "without a tag" in found["raced"]
    assert found["other"] == "published"


def test_a_full_disk_leaves_a_commit_without_a_tag_and_a_rerun_finishes(told):
    found = told["full_disk"]
    assert "disk of this machine is full" in found["told"] and "without a tag" in found["told"]
    assert found["tags"] == [] and found["again"] == "tagged"


def test_branches_rounds_and_pull_requests(told):
    found = told["ways"]
    assert found["branched"] == ["published", True]
    assert found["proposed"] == [["proposed", None, "/datasets/user/ways/discussions/1"]] * 2, "one, however often"
    assert found["refs"] == ["heads/main", "heads/next", "pr/1", "tags/iter0", "tags/iter1"], "no tag before the merge"
    assert found["merged"] == ["tagged", "iter2", True]


def test_a_model_goes_out_without_its_training(told):
    found = told["model"]
    assert found["states"] == [["user/rl2", "published", "v1.0"], ["user/rl2", "unchanged", "v1.0"],
                               ["user/rl2", "published", "v1.1"]]  # fmt: skip
    assert found["files"] == sorted(
        [".gitattributes", "README.md", "chat_template.jinja", "config.json", "config.toml", "curves.svg",
         "metrics.jsonl", "model.safetensors", "tokenizer.json", "visrl.json"]
    )  # fmt: skip
    assert found["weights"] == "weights"
    assert found["left_out"] == "Left out, since only safetensors are published: optimizer.pt, training_args.bin."


def test_a_model_is_published_without_the_folders_of_this_machine(told):
    code, err, card = told["model"]["local"]
    assert code == 0 and "names no license" in err
    assert card == "# rl1\n\nvisrl gen --model user/rl1@v1.0 --source questions.jsonl\n"


def test_a_token_in_a_file_is_found_before_anything_is_sent(told):
    code, out, err = told["model"]["token"]
    assert (code, out) == (1, "") and "README.md, line 3: a Hub token" in err and "Nothing was sent" in err


def test_nothing_on_the_hub_names_a_folder_or_a_token(told):
    assert told["leaked"] == []


def test_a_run_goes_from_the_command_line_to_load_dataset(told):
    found = told["from_the_command_line"]
    assert found["dry"][0] == 0 and found["dry"][1].startswith("Would publish user/run as v1.0")
    assert found["first"] == [0, "user/run", "published", "v1.0"], found["err"]
    assert found["again"][1].startswith("Unchanged: "), "the same run builds the same bytes"
    assert found["configs"][0] == "preferences" and found["rows"] > 0
    assert found["picture"] == [120, 90]


def test_gen_publishes_its_run(told):
    code, published = told["from_the_command_line"]["made"]
    assert code == 0, published
    assert [published[key] for key in ("hub_id", "state", "tag")] == ["user/made", "published", "v1.0"]
    assert told["from_the_command_line"]["made_private"]


def test_no_room_for_the_dataset_is_told(told):
    code, _, err = told["from_the_command_line"]["no_room"]
    assert code == 1 and "is full" in err and "Nothing was sent" in err and "Traceback" not in err


def test_a_published_version_and_a_run_are_the_next_version(told):
    found = told["merged"]
    assert found["dry"][:2] == [0, "Would publish user/line as v1.1: 25 changes.\n"]
    assert "fetching user/line@v1.0: the Hub has a fault (500" in found["dry"][2], "tried again"
    assert found["state"] == [0, "user/line", "published", "v1.1"], "where the version came from, without --hub-id"
    assert found["v1.0 stays"] and found["rows"] == found["expected"] and found["rows"][0] < found["rows"][1]
    assert found["other files"] == ["README.md"], "else the bytes that both runs give"
    assert found["title"] == ["A line", ["en"]], "as v1.0 had them"
    assert found["parts"] == [["user/line@v1.0", True], [None, False]]
    assert found["again"].startswith("Unchanged: ")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no tag", "user/line@v9 could not be fetched: not found on the Hub (404: Invalid rev id: v9). Check the name"),
        ("no repository", "user/nothing@v1.0 could not be fetched: not found on the Hub (404"),
        ("damaged", "report.json is missing or was changed since the dataset was made. Fetch it anew: `hf cache rm"),
        ("other way", "temperature: 2.0 / 1.0"),
    ],
)
def test_what_cannot_be_merged_is_told_and_nothing_is_sent(told, case, message):
    code, out, err = told["merged"][case]
    assert (code, out) == (1, "") and message in err and "Sending" not in err and "Traceback" not in err


def test_a_set_without_pictures_is_made_whole_from_the_hub(told):
    found = told["put_back"]
    rows, pictures = found["published"]
    assert rows > 0 == pictures and found["pixels on the Hub"] == []
    assert found["rebuilt"] == [0, 12]
    assert found["other files"] == ["README.md", "manifest.json"], "else the bytes of a build with all pictures"
    assert found["rl1"][0] == found["rl1"][1] > 0, "and it loads"


def test_a_wrong_picture_is_refused_from_the_hub_too(told):
    code, out, err = told["put_back"]["refused"]
    assert (code, out) == (1, "") and told["put_back"]["nothing written"]
    assert "12 pictures have the size of one but another checksum, and are not used" in err


def test_a_set_that_was_made_whole_is_not_published(told):
    code, _, err = told["put_back"]["pushed"]
    assert code == 1 and "Nothing was sent" in err and "--ship-images" in err


def test_a_set_that_cannot_be_fetched_is_told(told):
    for case, message in (("no tag", "(404: Invalid rev id: v7)"), ("no token", "does not accept the token (401")):
        code, out, err = told["put_back"][case]
        assert (code, out) == (1, "") and message in err and "`hf auth login`" in err and "Traceback" not in err


def test_through_xet():
    """Its store is a local folder here: the exchange of tokens and the chunks are real, its HTTP service is not."""
    found = run_module("tests.tools.hub_scenarios", "xet")["xet"]
    assert found["states"] == [["published", "v1.0"], ["unchanged", "v1.0"], ["published", "v1.1"]]
    assert found["rows"] == [4, 6] and found["picture"] == [40, 30]
    assert {"xet_write_token", "xet_read_token"} <= set(found["kinds"]) and "lfs_put" not in found["kinds"]
    forbidden, fault, unread = found["faults"].values()
    assert "the token may not do this (403)" in forbidden[0] and forbidden[1] == "published"
    assert fault == ["published", "unchanged"]
    assert "without a tag" in unread[0] and unread[1] == "tagged"
