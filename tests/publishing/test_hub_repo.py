"""What a release compares before it gets its tag; the steps themselves are tested against a Hub on the loopback."""

from types import SimpleNamespace

import pytest

from visrl_data.core.errors import VisRLError
from visrl_data.publishing import hub_repo

COMMIT = "a" * 40
FILES = (SimpleNamespace(path="data/a.parquet", size=7),)


def repo(said):
    return hub_repo.RepoRef(SimpleNamespace(endpoint="https://hub"), "user/pairs", "dataset", "main", said.append)


@pytest.fixture
def hub(monkeypatch):
    """What the Hub's digests and its bytes differ in."""
    differs = {"digests": [], "bytes": []}
    monkeypatch.setattr(hub_repo, "differing", lambda repo, commit, files: differs["digests"])
    monkeypatch.setattr(hub_repo, "differing_bytes", lambda repo, commit, files: differs["bytes"])
    return differs


@pytest.mark.parametrize("how", ["digests", "bytes"])
def test_a_commit_that_differs_is_refused_by_name(hub, how):
    hub[how] = ["data/a.parquet"]
    with pytest.raises(VisRLError, match=r"does not hold what was sent.*data/a\.parquet.*got no tag"):
        hub_repo.verify(repo([]), COMMIT, FILES, reload=True)


def test_a_commit_that_holds_what_was_sent_passes_and_no_bytes_are_read_without_reload(hub):
    said = []
    hub_repo.verify(repo(said), COMMIT, FILES, reload=True)
    assert said == ["Reading 7 bytes back from commit aaaaaaaaaaaa"]
    hub["bytes"] = ["data/a.parquet"]
    hub_repo.verify(repo(said), COMMIT, FILES, reload=False)
    assert len(said) == 1
