"""A published set may be a stranger's: what no visrl writes is refused before anything of it is used."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.dataset_runs import make_run
from visrl_data.core.errors import VisRLError
from visrl_data.core.files import file_digest
from visrl_data.publishing.dataset import build_dataset
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.publishing.export import export
from visrl_data.publishing.rebuild import rebuild
from visrl_data.runs import dataset_files, opening
from visrl_data.runs.dataset_folder import open_dataset
from visrl_data.runs.dataset_schema import CONFIGS
from visrl_data.runs.hub_fetch import HubDataset
from visrl_train.collator import ImageCache
from visrl_train.pairs import read_pairs


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    run = make_run(folder / "run", limit=12)
    return build_dataset([run.path], folder / "set").folder


@pytest.fixture
def strange(published, tmp_path):
    return shutil.copytree(published, tmp_path / "strange")


def change_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_listed(folder, path, table):
    """Write a table and its digest: a stranger's manifest fits the stranger's files."""
    pq.write_table(table, folder / path)
    change_manifest(folder, lambda manifest: manifest["sha256"].update({path: file_digest(folder / path)}))


def merge_alone(folder, output):
    return build_dataset([HubDataset(folder, "a/b@v1.0", "c" * 40)], output)


def test_the_names_of_the_configs_are_those_of_the_schema():
    assert set(dataset_files.CONFIG_NAMES) == set(CONFIGS)


def test_what_visrl_made_is_taken(published, tmp_path):
    open_dataset(published)
    check_dataset(published)
    merge_alone(published, tmp_path / "copy")


@pytest.mark.parametrize(
    "name",
    ["../up.parquet", "/etc/passwd", "data/../../up", "runs/\x1b[31m.parquet", "page.html", "data/rl9/x"],
)
def test_a_file_that_no_dataset_has_is_refused(name, strange, tmp_path):
    change_manifest(strange, lambda manifest: manifest["sha256"].update({name: "0" * 64}))
    for use in (open_dataset, lambda folder: rebuild(folder, folder, tmp_path / "out"), opening.open_target):
        with pytest.raises(VisRLError, match="which no dataset has") as error:
            use(strange)
        assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("digest", [None, 7, "", "x" * 64, ["0" * 64]])
def test_a_digest_is_one(digest, strange):
    change_manifest(strange, lambda manifest: manifest["sha256"].update({"README.md": digest}))
    with pytest.raises(VisRLError, match="no digest of README"):
        open_dataset(strange)


@pytest.mark.parametrize("path", ["data/candidates/train-00001-of-00002.parquet", "data/rl1/a.txt", "runs/x/y.parquet"])
def test_a_table_beside_those_of_the_manifest_is_refused(path, strange):
    (strange / path).parent.mkdir(exist_ok=True)
    shutil.copyfile(strange / "runs/pairs.parquet", strange / path)
    with pytest.raises(VisRLError, match=rf"{path} is not in its manifest"):
        open_dataset(strange)


@pytest.mark.parametrize("schema", [0, -1, 2, 99, True, 1.0, "1", None, [1]])
def test_a_schema_that_is_not_known_is_refused(schema, strange):
    change_manifest(strange, lambda manifest: manifest.update(schema_version=schema))
    with pytest.raises(VisRLError, match="has dataset schema"):
        open_dataset(strange)


@pytest.mark.parametrize("file", ["manifest.json", "report.json"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_of_json_are_numbers(file, number, strange):
    text = (strange / file).read_text()
    (strange / file).write_text(text.replace("{", f'{{"x": {number}, ', 1))
    with pytest.raises(VisRLError, match="is no number of JSON"):
        opening.open_target(str(strange))


def test_json_without_end_is_refused(strange):
    text = (strange / "report.json").read_text()
    (strange / "report.json").write_text(text.replace("{", '{"x": ' + "[" * 50_000 + "]" * 50_000 + ", ", 1))
    with pytest.raises(VisRLError, match="nested too deeply"):
        opening.open_target(str(strange))


def broken_box(table):
    boxes = table["win_box"].to_pylist()
    boxes[0][2] = float("nan")
    return table.set_column(table.column_names.index("win_box"), "win_box", pa.array(boxes, pa.list_(pa.float64())))


def broken_score(table):
    place = table.column_names.index("response_score")
    scores = pa.array([float("inf"), *table["response_score"].to_pylist()[1:]], pa.float64())
    return table.set_column(place, "response_score", scores)


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("runs/pairs.parquet", broken_box, "win_box holds NaN"),
        ("data/candidates/train-00000-of-00001.parquet", broken_score, "response_score holds NaN"),
        ("runs/pairs.parquet", lambda table: table.drop(["win_box"]), "not the columns of a dataset"),
        ("runs/drops.parquet", lambda table: pa.table({"x": [1]}), "not the columns of a dataset"),
        ("data/candidates/train-00000-of-00001.parquet", lambda table: table.select(["crop"]), "not the columns"),
    ],
)
def test_tables_are_those_of_the_schema(path, change, message, strange, tmp_path):
    write_listed(strange, path, change(pq.read_table(strange / path)))
    with pytest.raises(VisRLError, match=message):
        merge_alone(strange, tmp_path / "merged")


def test_a_column_that_the_schema_lacks_stays_behind(strange, tmp_path):
    pairs = pq.read_table(strange / "runs/pairs.parquet")
    write_listed(strange, "runs/pairs.parquet", pairs.append_column("note", pa.array(["<script>"] * pairs.num_rows)))
    merged = merge_alone(strange, tmp_path / "merged")
    assert "note" not in pq.read_schema(merged.folder / "runs/pairs.parquet").names


def test_junk_is_no_table(strange, tmp_path):
    (strange / "runs/pairs.parquet").write_bytes(b"PAR1 and then nothing")
    digest = file_digest(strange / "runs/pairs.parquet")
    change_manifest(strange, lambda manifest: manifest["sha256"].update({"runs/pairs.parquet": digest}))
    with pytest.raises(VisRLError, match="is no parquet file"):
        merge_alone(strange, tmp_path / "merged")


def test_a_run_can_not_pass_for_another(strange, tmp_path):
    """Else a stranger's run with the id of one's own would take its place in a merge."""
    change_manifest(strange, lambda manifest: manifest["runs"][0]["config"].update(seed=7))
    with pytest.raises(VisRLError, match="is not what its id says"):
        merge_alone(strange, tmp_path / "merged")


def test_the_report_of_a_published_set_is_computed_again(strange, tmp_path):
    report = json.loads((strange / "report.json").read_text())
    report["yields"]["all"]["pairs"] = 10**6
    (strange / "report.json").write_text(json.dumps(report | {"note": "<script>"}))
    digest = file_digest(strange / "report.json")
    change_manifest(strange, lambda manifest: manifest["sha256"].update({"report.json": digest}))
    merged = json.loads((merge_alone(strange, tmp_path / "merged").folder / "report.json").read_text())
    assert merged["yields"]["all"]["pairs"] < 20 and "note" not in merged


def test_the_page_of_a_published_set_is_neither_shown_nor_fetched(published):
    assert (published / "report.html").is_file()
    assert opening.open_target(str(published)).page is None
    assert not any(name.endswith(("html", "*.*")) for name in opening._DOWNLOADED)


@pytest.mark.parametrize(
    "change",
    [
        lambda page: "<script>alert(1)</script>",
        lambda page: page.replace("<head>", "<head><script>alert(1)</script>"),
        lambda page: page.replace("script-src ", "script-src 'unsafe-inline' "),
        lambda page: page.replace("<body>", "<body><meta http-equiv=refresh content='0;url=http://127.0.0.1'>"),
    ],
)
def test_a_page_that_could_run_a_script_is_not_published(change, strange):
    page = strange / "report.html"
    page.write_text(change(page.read_text()))
    change_manifest(strange, lambda manifest: manifest["sha256"].update({"report.html": file_digest(page)}))
    with pytest.raises(VisRLError, match=r"report\.html is not a page of this visrl"):
        check_dataset(strange)


@pytest.mark.parametrize("crop", [[0, 0, 10**6, 10**6], [5, 5, 5, 9], [-1, 0, 5, 5], [0, 0, 5]])
def test_a_crop_outside_of_its_image_takes_no_memory(strange, tmp_path, crop):
    """Pillow would make a picture of a million by a million pixels for the first one."""
    for path in sorted(strange.glob("data/preferences/*.parquet")):
        table = pq.read_table(path)
        crops = pa.array([crop] * table.num_rows, table.schema.field("win_crop").type)
        place = table.column_names.index("win_crop")
        write_listed(strange, path.relative_to(strange).as_posix(), table.set_column(place, "win_crop", crops))
    with pytest.raises(VisRLError, match="which is not inside its image"):
        export(strange, "llamafactory", tmp_path / "out")
    pairs = read_pairs(str(strange))
    with pytest.raises(VisRLError, match="which is not inside its image"):
        ImageCache(pairs.read_image).get(pairs.pairs[0].image, pairs.pairs[0].win_crop)
    assert not (tmp_path / "out").exists()
