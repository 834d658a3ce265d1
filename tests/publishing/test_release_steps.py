"""What a release compares before it gets its tag; the steps themselves are tested against a Hub on the loopback."""

from types import SimpleNamespace

import pytest

from visrl_data.core.errors import VisRLError
from visrl_data.publishing import hub_state
from visrl_data.publishing.release_steps import verify_commit

COMMIT = "a" * 40


def release(said):
    place = SimpleNamespace(id="user/pairs", url="https://hub/user/pairs", say=said.append)
    return SimpleNamespace(place=place, files=(SimpleNamespace(path="data/a.parquet", size=7),))


@pytest.fixture
def hub(monkeypatch):
    """What the Hub's digests and its bytes differ in."""
    differs = {"digests": [], "bytes": []}
    monkeypatch.setattr(hub_state, "differing", lambda place, commit, files: differs["digests"])
    monkeypatch.setattr(hub_state, "differing_bytes", lambda place, commit, files: differs["bytes"])
    return differs


@pytest.mark.parametrize("how", ["digests", "bytes"])
def test_a_commit_that_differs_is_refused_by_name(hub, how):
    hub[how] = ["data/a.parquet"]
    with pytest.raises(VisRLError, match=r"does not hold what was sent.*data/a\.parquet.*got no tag"):
        verify_commit(release([]), COMMIT, reload=True)


def test_a_commit_that_holds_what_was_sent_passes_and_no_bytes_are_read_without_reload(hub):
    said = []
    verify_commit(release(said), COMMIT, reload=True)
    assert said == ["Reading 7 bytes back from commit aaaaaaaaaaaa"]
    hub["bytes"] = ["data/a.parquet"]
    verify_commit(release(said), COMMIT, reload=False)
    assert len(said) == 1
