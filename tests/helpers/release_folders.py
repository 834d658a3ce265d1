"""Hand-made folders of the shape that is published: a dataset of two configs and a model. Small, always the same."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.conftest import draw_photo
from visrl_data.publishing.release import Folder

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def make_dataset(folder: Path, pairs: int = 6, score: str = "float64", extra: bool = False) -> Path:
    """preferences (default; train and validation, with pictures) and candidates (train, no pictures)."""
    shutil.rmtree(folder, ignore_errors=True)
    splits = {"train": pairs, "validation": 2}
    columns = {"id": pa.string(), "images": pa.list_(IMAGE), "score": pa.type_for_alias(score)}
    columns |= {"note": pa.string()} if extra else {}
    for split, rows in splits.items():
        table = [
            {"id": f"{split}-{i}", "images": [{"bytes": png(i), "path": None}], "score": i, "note": "n"}
            for i in range(rows)
        ]
        write(folder / f"data/preferences/{split}-00000-of-00001.parquet", table, pa.schema(columns.items()))
    pool = [{"question": f"q{i}", "box": [0.1, 0.2, 0.3, i / 100]} for i in range(3 * pairs)]
    schema = pa.schema([("question", pa.string()), ("box", pa.list_(pa.float64()))])
    write(folder / "data/candidates/train-00000-of-00001.parquet", pool, schema)
    features = [
        {"name": "id", "dtype": "string"},
        {"name": "images", "list": "image"},
        {"name": "score", "dtype": score},
        *([{"name": "note", "dtype": "string"}] if extra else []),
    ]
    pool_features = [{"name": "question", "dtype": "string"}, {"name": "box", "list": "float64"}]
    head = {
        "license": "cc0-1.0",
        "configs": [_config("preferences", splits, default=True), _config("candidates", {"train": 0})],
        "dataset_info": [
            _info("preferences", features, splits),
            _info("candidates", pool_features, {"train": 3 * pairs}),
        ],
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# Hand-made\n")
    (folder / "report.json").write_text(json.dumps({"pairs": pairs}) + "\n")
    (folder / "manifest.json").write_text(json.dumps({"pairs": pairs}) + "\n")
    return folder


def _config(name: str, splits: dict, **more: bool) -> dict:
    files = [{"split": split, "path": f"data/{name}/{split}-*.parquet"} for split in splits]
    return {"config_name": name, **more, "data_files": files}


def _info(name: str, features: list, splits: dict[str, int]) -> dict:
    counts = [{"name": split, "num_bytes": 1, "num_examples": rows} for split, rows in splits.items()]
    return {"config_name": name, "features": features, "splits": counts}


def png(seed: int) -> bytes:
    out = io.BytesIO()
    draw_photo(seed, (40, 30)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, rows: list[dict], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{name: row[name] for name in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def make_model(folder: Path, weights: bytes = b"weights") -> Path:
    """What a training stage leaves behind, with all that must stay at home."""
    shutil.rmtree(folder, ignore_errors=True)
    files = {
        "model.safetensors": weights,
        "config.json": b"{}",
        "visrl.json": b'{"origin_base": {"id": "spotlight-base"}}',
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ x }}",
        "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
        "curves.svg": b"<svg/>",
        "metrics.jsonl": b"{}\n",
        "config.toml": b"rate = 1\n",
        "training_args.bin": b"\x80pickle",
        "optimizer.pt": b"\x80pickle",
        "trainer_state.json": b"{}",
        "checkpoint-5/model.safetensors": b"older",
        ".lock": b"",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def stamped_folder(path: Path) -> Folder:
    """With a stamp as the builder's: tag, previous tag and changes are on the card and in the manifest."""
    card = (path / "README.md").read_text().partition("\nVersion ")[0]
    manifest = json.loads((path / "manifest.json").read_text())

    def stamp(tag: str, previous: str, changes: tuple[str, ...]) -> None:
        lines = "".join(f"- {line}\n" for line in changes)
        (path / "README.md").write_text(f"{card}\nVersion {tag} after {previous or 'nothing'}\n{lines}")
        stated = manifest | {"data_version": tag, "previous": previous}
        (path / "manifest.json").write_text(json.dumps(stated) + "\n")

    return Folder(path, stamp)
