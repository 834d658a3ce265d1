"""A release when the Hub fails (fault_table.py), and the command. Releases that succeed: test_loopback_hub.py."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import RepositoryNotFoundError, Response

from tests.cli.test_cli import visrl
from tests.helpers.dataset_runs import make_run
from tests.helpers.release_folders import make_model
from tests.publishing.test_loopback_hub import run_module
from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import HubFailure, attempt
from visrl_data.publishing import hub_repo, push
from visrl_data.publishing.dataset import build_dataset


def check_rows(rows):
    assert [row for row in rows if row["broken"]] == []
    assert {row["rerun"] for row in rows} <= {"published", "tagged", "unchanged", "proposed"}
    return {(row["scenario"], row["request"], row["fault"]): row for row in rows}


def test_faults_leave_nothing_half_published_and_a_rerun_finishes():
    """The first request of each kind; what went wrong once is repaired in the same run wherever it may pass."""
    rows = check_rows(run_module("tests.tools.fault_table", "--quick", "--json"))
    for fault in ("500", "lost", "late 500", "412"):
        assert rows["second version", "commit 1", fault]["saw"] == "published"
        assert rows["second version", "tag 1", fault]["saw"] == "published"
    assert "somebody else committed" in rows["second version", "commit 1", "race"]["saw"]
    assert rows["second version", "tag 1", "403"]["held"] == "commit, no tag"
    assert {row["request"].split()[0] for row in rows.values()} >= {
        "refs", "info", "tree", "commits", "resolve_head", "resolve_get", "preupload", "lfs_batch", "lfs_put",
        "lfs_verify", "validate_yaml", "commit", "tag", "create_repo", "branch",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_fault_of_every_request():
    assert len(check_rows(run_module("tests.tools.fault_table", "--json", timeout=3500))) > 900


@pytest.mark.parametrize(("status", "found"), [(404, None), (401, "refused")])
def test_only_a_404_means_that_there_is_no_repository(status, found, monkeypatch):
    """The client calls a 401 of the public Hub "repository not found" too; over plain http it does not."""

    def list_repo_refs(**_):
        response = Response(status, headers={})
        response.request = SimpleNamespace(url="https://hub/x")
        raise RepositoryNotFoundError("Repository Not Found", response=response)

    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    repo = hub_repo.RepoRef(SimpleNamespace(list_repo_refs=list_repo_refs), "user/x", "dataset", "main", lambda _: None)
    try:
        assert attempt("looking", lambda: hub_repo.read_refs(repo)) is found
    except HubFailure as error:
        assert found == "refused" and "does not accept the token (401)" in error.reason


def test_a_dataset_with_images_put_back_is_not_published(tmp_path):
    folder = build_dataset([make_run(tmp_path / "run", limit=12).path], tmp_path / "set").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"rebuilt": {"found": 1, "missing": 0}}))
    with pytest.raises(VisRLError, match=r"Nothing was sent.*--ship-images"):
        push.push([folder], "user/x")


def test_kinds_of_folders(tmp_path):
    assert push.kind_of(make_model(tmp_path / "m")) == "model"
    assert push.kind_of(tmp_path) == "run"
    (tmp_path / "manifest.json").write_text('{"kind": "visrl dataset"}')
    assert push.kind_of(tmp_path) == "dataset"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["push", "nowhere"], 1, "nowhere: no such folder. Give finished runs"),
        (["push", "empty"], 1, "no finished run"),
        (["push", "model", "model"], 2, "A model folder is published alone"),
        (["push", "user/pairs"], 1, "or USER/NAME@TAG, for a version on the Hub that is merged with them"),
        (["push", "a/b@v1.0", "--tag", "v1.1"], 2, "a/b@v1.0 is published already"),
        (["push", "user/pairs@v1.0", "model"], 2, "A model folder is published alone"),
        (["push", "model", "--license", "mit"], 2, "are for runs. The license of a model stands in the head"),
        (["push", "model", "--tag", "main", "--hub-id", "a/b"], 2, "--tag 'main'"),
        (["push", "model", "--hub-id", "a/b/c"], 2, "--hub-id"),
        (["push", "model", "--hub-id", "bad name"], 2, "--hub-id 'bad name' is no Hub id"),
        (["gen", "--push-to-hub", "--hub-id", "bad name"], 2, "--hub-id 'bad name' is no Hub id"),
        (["push", "model"], 1, "hf auth login"),
        (["push", "a/b@v1.0", "c/d@v1.0"], 1, "There is no Hub token on this machine"),
        (["gen", "--hub-id", "a/b"], 2, "need --push-to-hub"),
        (["gen", "--push-to-hub"], 1, "hf auth login"),
        (["gen", "--push-to-hub", "--hub-id", "a/b"], 1, "There is no Hub token on this machine"),
        (["gen", "--push-to-hub", "--hub-id", "a/b", "--tag", "main"], 2, "--tag 'main'"),
    ],
)
def test_what_is_wrong_is_told_before_the_hub_is_asked(arguments, code, message, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    (tmp_path / "empty").mkdir()
    make_model(tmp_path / "model")
    got, out, err = visrl(*arguments)
    assert (got, out) == (code, "")
    assert message in err and "Traceback" not in err
