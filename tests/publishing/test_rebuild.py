"""A dataset without images made whole again: the same bytes, and no wrong picture."""

import hashlib
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.test_cli import visrl
from tests.helpers.archives import tar_of, zip_of
from tests.helpers.dataset_runs import make_run, photos
from visrl_cli.main import app
from visrl_data.core.errors import VisRLError
from visrl_data.publishing.dataset import Stamp, build_dataset
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.publishing.image_search import find_images, read_image
from visrl_data.publishing.push import push
from visrl_data.publishing.rebuild import locate, missing_images, rebuild


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on pictures of which every third may be shipped."""
    folder = tmp_path_factory.mktemp("rebuild")
    source = photos(folder / "photos", rows=36, license="CC-BY-4.0", ship_image=lambda i: i // 2 % 3 == 0 or None)
    make_run(folder / "run", source)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    return build_dataset([folder / "run"], folder / "whole", Stamp("v1.0", "me/photos"), ship_images=True)


@pytest.fixture(scope="module")
def part(folder):
    return build_dataset([folder / "run"], folder / "part", Stamp("v1.0", "me/photos"))


def test_it_equals_a_build_with_all_images(folder, whole, part, tmp_path):
    result = rebuild(part.folder, folder / "photos", tmp_path / "made")
    assert result.missing == () and result.found == 12
    assert part.counts["rl1"] != whole.counts["rl1"] == result.dataset.counts["rl1"]
    different = {
        name
        for name in {*whole.manifest["sha256"], *result.dataset.manifest["sha256"]}
        if whole.manifest["sha256"].get(name) != result.dataset.manifest["sha256"].get(name)
    }
    assert different == {"README.md", "report.html"}, (
        "every shard and picture has the bytes that a build with all images gives"
    )
    check_dataset(result.dataset.folder)
    with pytest.raises(VisRLError, match="its sources do not let others publish. Nothing was sent"):
        push([result.dataset.folder], "user/x")
    card = (result.dataset.folder / "README.md").read_text()
    assert "12 images were restored by checksum" in card and 'load_dataset("."' in card


def test_names_and_folders_of_the_files_do_not_matter(folder, part, tmp_path):
    for i, file in enumerate(sorted((folder / "photos").iterdir())):
        (tmp_path / "in" / str(i % 3) / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / str(i % 3) / "deep" / f"{i}").write_bytes(file.read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    assert rebuild(part.folder, tmp_path / "in", tmp_path / "made").missing == ()


def test_images_inside_parquet_files_are_found(folder, whole, part, tmp_path):
    """As many sources are published: a column of pictures."""
    (tmp_path / "in").mkdir()
    for file in sorted((whole.folder / "data" / "images").iterdir()):
        pq.write_table(pq.read_table(file, columns=["image"]), tmp_path / "in" / file.name, row_group_size=4)
    (tmp_path / "in" / "broken.parquet").write_bytes(b"PAR1")
    nested = pa.table({"image": [{"bytes": {"bytes": b"no picture"}}]})
    pq.write_table(nested, tmp_path / "in" / "nested.parquet")
    pq.write_table(pa.table({"image": [b"page"] * 9}), tmp_path / "in" / "flipped.parquet")
    with (tmp_path / "in" / "flipped.parquet").open("r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 16)  # the header of its first page; the footer is whole
    result = rebuild(part.folder, tmp_path / "in", tmp_path / "made")
    names = [name for name in whole.manifest["sha256"] if name.startswith("data/")]
    assert [result.dataset.manifest["sha256"][name] for name in names] == [whole.manifest["sha256"][n] for n in names]


@pytest.mark.parametrize("kind", ["zip", "tar", "inside", "cache"])
def test_images_inside_archives_and_a_hub_cache_are_found(folder, whole, part, tmp_path, kind):
    needed = {image.sha256 for image in missing_images(part)}
    files = [file for file in (folder / "photos").iterdir() if file.suffix in (".jpg", ".png")]
    pictures = {f"a/{file.name}": file.read_bytes() for file in files}
    place = tmp_path / "in"
    if kind == "cache":
        place = tmp_path / "datasets--u--set" / "snapshots" / "abc"
        for name, data in pictures.items():
            blob = tmp_path / "datasets--u--set" / "blobs" / name.replace("/", "")
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).symlink_to(blob)
    else:
        place.mkdir()
        archive = (tar_of if kind == "tar" else zip_of)(
            place / f"x.{'tar' if kind == 'tar' else 'zip'}", *pictures.items()
        )
        (place / "bad.zip").write_bytes(b"no archive")
        place = place if kind == "inside" else archive
    search = find_images(place, missing_images(part))
    assert set(search.images) == needed
    assert all(hashlib.sha256(read_image(search, sha)).hexdigest() == sha for sha in needed)


def test_what_is_missing_is_named_and_nothing_is_written(folder, part, tmp_path):
    (tmp_path / "in").mkdir()
    files = sorted((folder / "photos").glob("*.*g"))
    for file in files[:-4]:
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    needed = {image.sha256: image for image in missing_images(part)}
    with pytest.raises(VisRLError) as told:
        rebuild(part.folder, tmp_path / "in", tmp_path / "made")
    gone = [image for image in needed.values() if f"sha256 {image.sha256[:16]}" in str(told.value)]
    assert 0 < len(gone) <= 4 and all(image.ids[0] in str(told.value) for image in gone)
    assert str(told.value).startswith(f"{len(gone)} of 12 images are not among the {len(files) - 4} files")
    assert not (tmp_path / "made").exists()
    result = rebuild(part.folder, tmp_path / "in", tmp_path / "made", allow_missing=True)
    assert {image.sha256 for image in result.missing} == {image.sha256 for image in gone}
    check_dataset(result.dataset.folder)
    again = rebuild(result.dataset.folder, folder / "photos", tmp_path / "rest")
    assert again.missing == () and again.found == len(gone), "what is still missing can be put back later"


def test_a_wrong_picture_is_refused(folder, part, tmp_path):
    """The right size is not enough: one flipped bit, and the file is not used."""
    (tmp_path / "in").mkdir()
    for file in (folder / "photos").glob("*.*g"):
        data = bytearray(file.read_bytes())
        data[-20] ^= 1
        (tmp_path / "in" / file.name).write_bytes(data)
    with pytest.raises(VisRLError, match="12 pictures have the size of one but another checksum"):
        rebuild(part.folder, tmp_path / "in", tmp_path / "made")


def test_links_do_not_lead_out_of_the_folder(folder, part, tmp_path):
    needed = missing_images(part)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "out").symlink_to(folder / "photos")
    for i, file in enumerate(sorted((folder / "photos").glob("*.*g"))):
        (tmp_path / "in" / f"{i}.png").symlink_to(file)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self.png").symlink_to("self.png")
    assert find_images(tmp_path / "in", needed).images == {}
    inside = sorted((folder / "photos").glob("*.*g"))
    for i, file in enumerate(inside):
        (tmp_path / "in" / "sub" / f"{i}").write_bytes(file.read_bytes())
        os.symlink(tmp_path / "in" / "sub" / f"{i}", tmp_path / "in" / f"a{i}.png")
    assert len(find_images(tmp_path / "in", needed).images) == 12, "a link that stays inside counts"


def test_files_of_other_sizes_are_not_read(folder, part, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "large.bin").write_bytes(b"x" * 100_000)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("hashed"))
    assert find_images(tmp_path / "in", missing_images(part)).files == 1


def test_a_picture_that_changes_meanwhile_is_noticed(folder, part, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(folder / "photos", tmp_path / "in")
    search = find_images(tmp_path / "in", missing_images(part))
    [*files] = {place.path for place in search.images.values()}
    files[0].write_bytes(b"other")
    monkeypatch.setattr("visrl_data.publishing.rebuild.find_images", lambda *_: search)
    with pytest.raises(VisRLError, match="changed while it was being used"):
        rebuild(part.folder, tmp_path / "in", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_cannot_be_rebuilt(folder, part, tmp_path):
    with pytest.raises(VisRLError, match="no dataset that visrl made"):
        rebuild(folder / "run", folder / "photos", tmp_path / "made")
    with pytest.raises(VisRLError, match="--images .*: expected a folder, a .zip or a .tar file"):
        rebuild(part.folder, tmp_path / "nowhere", tmp_path / "made")
    with pytest.raises(VisRLError, match="is the dataset itself"):
        rebuild(part.folder, folder / "photos", part.folder)
    with pytest.raises(VisRLError, match=r"no such folder, and no Hub id"):
        locate("./nothing")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "manifest.json").write_text(json.dumps({"kind": "visrl dataset", "schema_version": 99}))
    with pytest.raises(VisRLError, match="schema 99"):
        rebuild(newer, folder / "photos", tmp_path / "made")


def test_the_command(folder, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = visrl("rebuild", part.folder, "--images", folder / "photos", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["found"], told["missing"], told["output"]) == (12, [], "part-complete")
    assert told["counts"]["images"] == {"train": 17, "validation": 1} or sum(told["counts"]["images"].values()) == 18
    code, out, _ = visrl("rebuild", part.folder, "--images", folder / "photos", "-o", tmp_path / "again")
    assert code == 0 and out.startswith("12 images restored, 0 missing.")
    code, out, _ = visrl("rebuild", tmp_path / "again", "--images", folder / "photos", "-o", tmp_path / "twice")
    assert code == 0 and out.startswith("No image was missing.")
    (tmp_path / "empty").mkdir()
    code, out, err = visrl("rebuild", part.folder, "--images", tmp_path / "empty", "-o", tmp_path / "none")
    assert (code, out) == (1, "") and "12 of 12 images are not among" in err and "--allow-missing" in err
    code, out, _ = visrl(
        "rebuild", part.folder, "--images", tmp_path / "empty", "-o", tmp_path / "none", "--allow-missing"
    )
    assert code == 0 and out.count("  missing: ") == 10 and out.endswith("  and 2 more\n")
    assert "rebuild" in {command.name or command.callback.__name__ for command in app.registered_commands}
    _, out, _ = visrl("rebuild", "--help")
    assert "visrl rebuild user/pairs@v1.0" in out
