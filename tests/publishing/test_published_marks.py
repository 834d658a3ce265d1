"""What people marked in `visrl audit` goes into a dataset, onto its card, and from one version into the next."""

import pyarrow.parquet as pq
import pytest

from tests.helpers.command import visrl
from tests.helpers.dataset_runs import make_run
from visrl_data.core.errors import VisRLError
from visrl_data.evaluation import audit
from visrl_data.publishing.dataset import Stamp, build_dataset
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.publishing.rebuild import rebuild
from visrl_data.runs import hub_fetch
from visrl_data.runs.hub_fetch import HubDataset
from visrl_data.runs.marks import TABLE, open_marks, published_folder, read_dataset_marks
from visrl_data.runs.pair_ids import pair_ids
from visrl_data.runs.parts import run_member

NAME = "me/spot@v1.0"
ALL = {"win_box": "right", "lose_box": "wrong", "win_response": "right", "lose_response": "wrong"}


def mark(folder, annotator, *ids, verdicts=ALL):
    with open_marks(folder, annotator) as file:
        for name in ids:
            file.add(name, verdicts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("marked") / "run", limit=30)
    mark(run.path / "audit", "kim", *pair_ids(run.pairs())[:3], "a-pair-of-another-filter")
    return run


@pytest.fixture
def published(run, tmp_path, monkeypatch):
    """The set of the run, as v1.0 of me/spot in the Hub's cache; the working directory is an empty folder."""
    folder = build_dataset([run.path], tmp_path / "cache" / "set", Stamp("v1.0", "me/spot")).folder
    fetched = HubDataset(folder, NAME, "c" * 40)
    for module in (hub_fetch, audit):
        monkeypatch.setattr(module, "fetch_dataset", lambda *_: fetched)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return fetched


def test_a_dataset_holds_the_marks_of_its_pairs_and_the_card_says_what_they_mean(run, tmp_path):
    dataset = build_dataset([run.path], tmp_path / "set")
    assert TABLE in dataset.manifest["sha256"]
    marks = read_dataset_marks(dataset.folder).to_pylist()
    assert [row["pair_id"] for row in marks] == sorted(pair_ids(run.pairs())[:3])
    ids = {name for file in (dataset.folder / "data" / "preferences").iterdir()
           for name in pq.read_table(file, columns=["id"])["id"].to_pylist()}  # fmt: skip
    assert {row["pair_id"] for row in marks} <= ids
    card = (dataset.folder / "README.md").read_text()
    assert "By human eyes" in card and f"3 of {run.pairs().num_rows} pairs seen" in card
    check_dataset(dataset.folder)
    (dataset.folder / TABLE).unlink()
    with pytest.raises(VisRLError, match=f"{TABLE} is missing"):
        check_dataset(dataset.folder)


def test_without_marks_nothing_is_said_of_people(tmp_path):
    folder = build_dataset([make_run(tmp_path / "run", limit=12).path], tmp_path / "set").folder
    assert not (folder / "audit").exists()
    assert "human eyes" not in (folder / "README.md").read_text()


def test_marks_make_no_other_run_of_it(run, tmp_path):
    before = run_member(run).id
    code, _, _ = visrl("filter", run.path)  # writes the page again, with the marks on it
    assert code == 0 and "By kim (3 pairs)" in (run.path / "report.html").read_text()
    assert run_member(run).id == before


def test_marks_of_a_published_set_are_shown_and_travel_into_the_next_version(run, published, tmp_path):
    target = audit.open_audit(NAME, print)
    assert target.pairs.num_rows == target.total == run.pairs().num_rows and target.run is None
    assert len(audit.draw(target, 5, "lee")) == 5
    ids = pair_ids(target.pairs)
    mark(target.marks, "lee", ids[0], ids[4])
    mark(target.marks, "kim", ids[0], verdicts={"win_box": "unsure"})
    assert target.marks.resolve() == tmp_path / "here" / "audits" / "me" / "spot"
    code, out, _ = visrl("inspect", NAME)
    assert code == 0 and "By kim (3 pairs), lee (2 pairs)" in out
    second = build_dataset([published, make_run(tmp_path / "more", limit=20, seed=3).path], tmp_path / "second")
    marks = {(row["annotator"], row["pair_id"]): row for row in read_dataset_marks(second.folder).to_pylist()}
    assert len(marks) == 5
    assert marks["kim", ids[0]] == {"annotator": "kim", "pair_id": ids[0], **ALL, "win_box": "unsure"}
    assert "kim (3 pairs), lee (2 pairs)" in (second.folder / "README.md").read_text()
    check_dataset(second.folder)


def test_marks_alone_are_a_reason_for_a_version(published):
    code, _, err = visrl("push", NAME)
    assert code == 2 and "is published already" in err and f"visrl audit {NAME}" in err
    published_folder(NAME).mkdir(parents=True)
    code, _, err = visrl("push", NAME, "--tag", "main")
    assert code == 2 and "--tag 'main'" in err and "published already" not in err


def test_a_set_whose_images_were_left_out_says_so(tmp_path, monkeypatch):
    folder = build_dataset([make_run(tmp_path / "run", limit=12).path], tmp_path / "set", ship_images=False).folder
    monkeypatch.setattr(audit, "fetch_dataset", lambda *_: HubDataset(folder, NAME, "c" * 40))
    with pytest.raises(VisRLError, match="no pair to show: its images were left out"):
        audit.open_audit(NAME, print)


def test_a_rebuilt_set_keeps_its_marks(run, tmp_path):
    folder = build_dataset([run.path], tmp_path / "set").folder
    (tmp_path / "images").mkdir()
    rebuilt = rebuild(folder, tmp_path / "images", tmp_path / "complete").dataset
    assert read_dataset_marks(rebuilt.folder).equals(read_dataset_marks(folder))
