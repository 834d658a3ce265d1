"""Releases end to end: the real clients against the loopback Hub; and the loopback Hub against git."""

import json
import os
import re
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
def results():
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


def test_only_this_machine_can_be_reached(results):
    assert all("a test wants to" in message for message in results["guard"].values())


def test_two_versions_load_by_their_tags(results):
    result = results["two_versions"]
    assert result["states"] == [["published", "v1.0"], ["published", "v1.1"]]
    assert result["rows"] == [{"train": 4, "validation": 2}, {"train": 7, "validation": 2}]
    assert result["candidates"] == 12
    assert result["picture"] == [True, True], "decoded, and the pixels that were drawn"
    assert result["streamed"] == [4, [40, 30], "train-3"]
    assert result["snapshot"] == [], "files that differ"
    assert result["changes"][:2] == ["preferences/train: 4 -> 7 rows", "candidates/train: 12 -> 21 rows"]
    assert result["card"]


def test_a_version_is_one_commit(results):
    assert results["two_versions"]["commits"] == ["Release v1.1", "Release v1.0", "initial commit"]


def test_the_default_config_is_what_loads_without_a_name(results):
    assert results["default_config"] == {"columns": ["id", "images", "score"], "rows": 7}


def test_the_same_content_again_changes_nothing(results):
    result = results["same_again"]
    assert result["states"] == ["unchanged", "unchanged"] and result["same_commit"]


def test_older_content_is_a_new_version_and_no_tag_moves(results):
    result = results["same_again"]
    assert result["older_content"] == ["published", "v1.2"] and result["commits"] == 1 and result["head_is_newest_tag"]
    assert "never moved" in result["moved"] and "Nothing was sent" in result["moved"]


def test_a_breaking_change_of_schema_must_be_meant(results):
    result = results["schema"]
    assert result["more"] == ["v1.1", "preferences: column note (string) is new"]
    assert "column note is gone" in result["less"] and "--allow-schema-change" in result["less"]
    assert "score was float64, is int64" in result["other"]
    assert result["meant"] == "v2.0"


def test_a_dry_run_tells_and_sends_nothing(results):
    result = results["schema"]
    assert result["dry"] == ["dry-run", "v2.1", ["preferences/train: 6 -> 3 rows", "candidates/train: 18 -> 9 rows"]]
    assert result["refs"] == ["heads/main", "tags/v1.0", "tags/v1.1", "tags/v2.0"]


def test_deletions_are_in_the_same_commit_and_files_made_by_hand_stay(results):
    result = results["deletions"]
    assert result["deleted"] == ["- data/candidates/train-00001-of-00002.parquet"]
    assert result["gone"] and result["kept"]
    assert result["parents"] == ["Release v1.1", "by hand", "Release v1.0", "initial commit"]


def test_what_is_refused_is_told_before_anything_is_sent(results):
    result = results["refused"]
    assert "is public, and you asked for --private. Nothing was sent" in result["public"]
    assert "data/train.parquet. Nothing was sent" in result["foreign"]
    assert "403" in result["namespace"] and "another --hub-id" in result["namespace"]
    assert result["private"] == ["published", True]
    assert "does not accept the token (401" in result["bad token"] and "hf auth login" in result["bad token"]
    assert "no Hub token on this machine" in result["no token"]


def test_a_rate_limit_is_waited_for_as_long_as_is_sensible(results):
    assert "asks for 1000 s" in results["refused"]["rate limit"]
    assert results["refused"]["short limit"] == "unchanged"


def test_a_silent_connection_is_given_up_and_tried_again(results):
    result = results["stalled"]
    assert result["state"] == "published"
    assert [line.partition(":")[0] for line in result["again"]] == ["looking at the repository", "committing"]


def test_what_would_go_on_without_end_is_given_up(results):
    result = results["without_end"]
    half, rate, fault = result["messages"]
    assert re.search(r"reading README\.md back: README\.md did not arrive whole within 2 s", half)
    assert re.search(r"holds it as commit \w{12}, without a tag.*run the same command again", half, re.DOTALL)
    assert "rate limit is reached (429" in rate and "Wait for 278 hours. Then run the same command again" in rate
    assert "(503" in fault and "Wait for 278 hours" in fault
    assert result["tags"] == [] and result["again"] == "tagged"


def test_a_commit_that_is_not_what_was_sent_gets_no_tag(results):
    result = results["not_as_sent"]
    assert "does not hold what was sent" in result["ignored"] and "manifest.json, report.json" in result["ignored"]
    assert result["tags"] == []


def test_a_tag_that_somebody_else_made_meanwhile_stays(results):
    result = results["not_as_sent"]
    assert "never moved" in result["raced"] and "without a tag" in result["raced"]
    assert result["other"] == "published"


def test_a_full_disk_leaves_a_commit_without_a_tag_and_a_rerun_finishes(results):
    result = results["full_disk"]
    assert "disk of this machine is full" in result["message"] and "without a tag" in result["message"]
    assert result["tags"] == [] and result["again"] == "tagged"


def test_branches_rounds_and_pull_requests(results):
    result = results["ways"]
    assert result["branched"] == ["published", True]
    assert result["proposed"] == [["proposed", None, "/datasets/user/ways/discussions/1"]] * 2, "one, however often"
    assert result["refs"] == ["heads/main", "heads/next", "pr/1", "tags/iter0", "tags/iter1"], "no tag before the merge"
    assert result["merged"] == ["tagged", "iter2", True]


def test_a_model_goes_out_without_its_training(results):
    result = results["model"]
    assert result["states"] == [["user/rl2", "published", "v1.0"], ["user/rl2", "unchanged", "v1.0"],
                               ["user/rl2", "published", "v1.1"]]  # fmt: skip
    assert result["files"] == sorted(
        [".gitattributes", "README.md", "chat_template.jinja", "config.json", "config.toml", "curves.svg",
         "metrics.jsonl", "model.safetensors", "tokenizer.json", "visrl.json"]
    )  # fmt: skip
    assert result["weights"] == "weights"
    assert result["left_out"] == "Left out, since only safetensors are published: optimizer.pt, training_args.bin."


def test_a_model_is_published_without_the_folders_of_this_machine(results):
    code, err, card = results["model"]["local"]
    assert code == 0 and "names no license" in err
    assert card == "# rl1\n\nvisrl gen --model user/rl1@v1.0 --source questions.jsonl\n"


def test_a_token_in_a_file_is_found_before_anything_is_sent(results):
    code, out, err = results["model"]["token"]
    assert (code, out) == (1, "") and "README.md, line 3: a Hub token" in err and "Nothing was sent" in err


def test_an_adapter_on_the_shipped_model_goes_out_with_its_base(results):
    result = results["with_base"]
    code, err, card = result["alone"]
    assert code == 0 and "others can't load this adapter" in err and "--with-base" in err
    assert "Nobody else can load this adapter" in card and "```python" not in card
    assert result["dry"][0] == 0
    (code, out), again = result["done"]
    assert code == 0 and out.startswith("Published ") and again[1].startswith("Unchanged: ")
    base, same_digest, origin = result["base"]
    assert base.startswith("user/glyphs-base@") and same_digest and origin == base
    card = result["card"]
    assert "MODEL, REVISION = 'user/glyphs', 'v1.0'" in card and "'user/glyphs-base', revision=" in card
    assert "base_model: user/glyphs-base" in card and card.endswith("## Reproduce it\n")
    assert result["base card"] == "# Spotlight\n"
    assert result["no base"][0] == 2 and "is no adapter, or its base is on the Hub" in result["no base"][2]


def test_a_space_goes_out_after_its_dataset_and_links_it(results):
    result = results["space"]
    assert result["dry"][0] == 0 and result["nothing"] == []
    assert "Would publish user/shown-report as v1.0: 3 changes." in result["dry"][1]
    assert result["files"] == [".gitattributes", "README.md", "index.html", "report.json"], "no template is left"
    assert (
        result["same page"] and "sdk: static\n" in result["readme"] and "datasets:\n- user/shown\n" in result["readme"]
    )
    assert "https://huggingface.co/datasets/user/shown/tree/v1.0" in result["readme"]
    assert "<https://huggingface.co/spaces/user/shown-report>" in result["card"]
    assert result["commits"] == ["Release v1.1", "Release v1.0", "initial commit"], "one a version"
    assert "tree/v1.1" in result["second"]


def test_the_page_of_a_space_names_no_folder_and_no_lost_row(results):
    assert results["space"]["page"] == [True, False]


def test_a_space_that_failed_leaves_the_dataset_and_the_same_command_finishes(results):
    result = results["space"]
    code, out, err = result["failed"]
    assert (code, out) == (1, "") and "The dataset is on the Hub: " in err and "user/shown/tree/v1.0" in err
    assert "the same command with --tag v1.0 finishes it" in err and "(403" in err
    assert result["after the fault"] == [["heads/main"], ["heads/main", "tags/v1.0"]]
    finished = result["finished"]
    assert [finished["state"], finished["space"]["state"], finished["space"]["tag"]] == [
        "unchanged",
        "published",
        "v1.0",
    ]
    assert result["sent"] == ["POST /api/spaces/user/shown-report/commit/main"], "no data again"
    assert result["again"][1].count("Unchanged: ") == 2 and result["sent again"] == []


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("pictures", 1, "some of its images are not published: nobody said that they may be redistributed"),
        ("taken", 1, "user/taken-report holds files that no `visrl push` put there"),
        ("hidden", 1, "user/hidden-set-report exists and is public, and what it shows is private"),
        ("several", 2, "--space shows the report of a single run"),
        ("merged", 1, "has no report.html"),
        ("proposed", 2, "--space shows a version on main"),
        ("edited", 1, "is not the page that this visrl wrote"),
        ("model", 2, "--space shows the report of a single run"),
        ("token", 1, "index.html, line"),
    ],
)
def test_a_space_that_may_not_be_is_refused_before_the_dataset_is_sent(results, case, code, message):
    result = results["no_space"]
    assert result[case][:2] == [code, ""] and message in result[case][2] and "Traceback" not in result[case][2]
    assert result["sent"] == []


def test_the_space_of_a_private_dataset_is_private(results):
    assert results["no_space"]["private"] == [0, True, True]


def test_nothing_on_the_hub_names_a_folder_or_a_token(results):
    assert results["leaked"] == []


def test_a_run_goes_from_the_command_line_to_load_dataset(results):
    result = results["from_the_command_line"]
    assert result["dry"][0] == 0 and result["dry"][1].startswith("Would publish user/run as v1.0")
    assert result["first"] == [0, "user/run", "published", "v1.0"], result["err"]
    assert result["again"][1].startswith("Unchanged: "), "the same run builds the same bytes"
    assert result["configs"][0] == "preferences" and result["rows"] > 0
    assert result["picture"] == [120, 90]


@pytest.mark.parametrize("form", ["llamafactory", "swift", "visrl"])
def test_a_published_version_is_exported_as_its_run_is(results, form):
    published, local = results["exported"][form]
    assert published == local and published[0] == 0 and published[1]["rl2"] > 0


def test_the_same_run_again_from_its_published_options(results):
    """The pairs of the run, to the byte; its source, a file, is named by the user, as the card says."""
    refused, code, same_pairs = results["from_the_command_line"]["same run"]
    assert refused[0] == 2 and "was made with --source questions.jsonl" in refused[2]
    assert (code, same_pairs) == (0, True)
    assert "\nvisrl gen --config user/run@v1.0 --source questions.jsonl\n" in results["from_the_command_line"]["card"]


def test_gen_publishes_its_run(results):
    code, published = results["from_the_command_line"]["made"]
    assert code == 0, published
    assert [published[key] for key in ("hub_id", "state", "tag")] == ["user/made", "published", "v1.0"]
    assert results["from_the_command_line"]["made_private"]


def test_no_room_for_the_dataset_is_told(results):
    code, _, err = results["from_the_command_line"]["no_room"]
    assert code == 1 and "is full" in err and "Nothing was sent" in err and "Traceback" not in err


def test_a_published_version_and_a_run_are_the_next_version(results):
    result = results["merged"]
    assert result["dry"][:2] == [0, "Would publish user/line as v1.1: 26 changes.\n"]
    assert "fetching user/line@v1.0: the Hub has a fault (500" in result["dry"][2], "tried again"
    assert result["state"] == [0, "user/line", "published", "v1.1"], "where the version came from, without --hub-id"
    assert result["v1.0 stays"] and result["rows"] == result["expected"] and result["rows"][0] < result["rows"][1]
    assert result["other files"] == ["README.md"], "else the bytes that both runs give"
    assert result["title"] == ["A line", ["en"]], "as v1.0 had them"
    assert result["parts"] == [["user/line@v1.0", True], [None, False]]
    assert result["again"].startswith("Unchanged: ")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no tag", "user/line@v9 could not be fetched: not found on the Hub (404: Invalid rev id: v9). Check the name"),
        ("no repository", "user/nothing@v1.0 could not be fetched: not found on the Hub (404"),
        ("damaged", "report.json is missing or was changed since the dataset was built. Fetch it again: `hf cache rm"),
        ("other way", "temperature: 2.0 -> 1.0"),
    ],
)
def test_what_cannot_be_merged_is_told_and_nothing_is_sent(results, case, message):
    code, out, err = results["merged"][case]
    assert (code, out) == (1, "") and message in err and "Sending" not in err and "Traceback" not in err


def test_a_set_without_pictures_is_made_whole_from_the_hub(results):
    result = results["put_back"]
    rows, pictures = result["published"]
    assert rows > 0 == pictures and result["pixels on the Hub"] == []
    assert result["rebuilt"] == [0, 12]
    other = ["README.md", "manifest.json", "report.html"]
    assert result["other files"] == other, "else the bytes of a build with all pictures; the page is the run's"
    assert result["rl1"][0] == result["rl1"][1] > 0, "and it loads"


def test_a_wrong_picture_is_refused_from_the_hub_too(results):
    code, out, err = results["put_back"]["refused"]
    assert (code, out) == (1, "") and results["put_back"]["nothing written"]
    assert "12 pictures have the size of one but another checksum, and are not used" in err


def test_a_set_that_was_made_whole_is_not_published(results):
    code, _, err = results["put_back"]["pushed"]
    assert code == 1 and "Nothing was sent" in err and "--ship-images" in err


def test_a_set_that_cannot_be_fetched_is_told(results):
    for case, message in (("no tag", "(404: Invalid rev id: v7)"), ("no token", "does not accept the token (401")):
        code, out, err = results["put_back"][case]
        assert (code, out) == (1, "") and message in err and "`hf auth login`" in err and "Traceback" not in err


def test_through_xet():
    """Its store is a local folder here: the exchange of tokens and the chunks are real, its HTTP service is not."""
    result = run_module("tests.tools.hub_scenarios", "xet")["xet"]
    assert result["states"] == [["published", "v1.0"], ["unchanged", "v1.0"], ["published", "v1.1"]]
    assert result["rows"] == [4, 6] and result["picture"] == [40, 30]
    assert {"xet_write_token", "xet_read_token"} <= set(result["kinds"]) and "lfs_put" not in result["kinds"]
    forbidden, fault, unread = result["faults"].values()
    assert "the token may not do this (403)" in forbidden[0] and forbidden[1] == "published"
    assert fault == ["published", "unchanged"]
    assert "without a tag" in unread[0] and unread[1] == "tagged"
