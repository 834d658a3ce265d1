"""What each kind of source makes of a small file in its true format, bad rows included.

    python -m tests.tools.source_table

Prints a table of rows in, questions out and drops by reason. The files are made here, and tests/test_sources_*.py
read the same ones.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.conftest import draw_photo
from visrl_data.core.records import Drop, Question
from visrl_data.evaluation.inference import VISUAL_COT_REQUEST
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.protocol import Source

SIZE = (500, 375)  # of all pictures
TEXT_BOX = "[0.574, 0.267, 0.730, 0.623]"  # [287, 71, 365, 249] in pixels


@dataclass(frozen=True)
class Made:
    """A source to open. args: of open_source, before its options."""

    source: str
    split: str = "train"
    options: SourceOptions = SourceOptions()

    def open(self, **changes: Any) -> Source:
        made = replace(self, **changes)
        return open_source(made.source, made.split, None, made.options)


def jpeg(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    buffer = io.BytesIO()
    draw_photo(seed, size).save(buffer, "JPEG")
    return buffer.getvalue()


def pictures(folder: Path, *names: str) -> None:
    """A drawing under each name; a name with "cut" in it is a file that ends too early."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed)[:500] if "cut" in name else jpeg(seed))


def lines(file: Path, *rows: Any) -> Path:
    """Rows as lines of JSON; a string is a line as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def parquet(file: Path, columns: dict[str, list[Any]], *images: str) -> Path:
    """A table as the Hub's Parquet files are: images are features, the other columns as they come."""
    from datasets import Dataset, Image, List

    file.parent.mkdir(parents=True, exist_ok=True)
    table = Dataset.from_dict(columns)
    for name in images:
        many = any(isinstance(value, list) for value in columns[name])
        table = table.cast_column(name, List(Image()) if many else Image())
    table.to_parquet(str(file))
    return file


def stored(seed: int) -> dict[str, Any]:
    return {"bytes": jpeg(seed), "path": None}


def make_jsonl(folder: Path) -> Made:
    pictures(folder, "a.jpg", "cut.jpg")
    good = {"question": "What is it?", "answers": ["a cat"], "image": "a.jpg"}
    rows = [good, good | {"image": "b.jpg"}, good | {"image": "cut.jpg"}, good | {"answers": []}, "{",
            good | {"image": "../a.jpg"}, good | {"image": "https://example.org/a.jpg"},
            good | {"boxes": [[0.5, 0.1, 0.2, 0.9]]}]  # fmt: skip
    return Made(str(lines(folder / "questions.jsonl", *rows)))


def make_parquet(folder: Path) -> Made:
    columns = {"id": ["a", "b", "c"], "question": ["What?", None, "Which?"], "answer": ["x", "y", ""],
               "image": [stored(0), stored(1), stored(2)]}  # fmt: skip
    return Made(str(parquet(folder / "set.parquet", columns, "image")))


def said(question: str, answer: str, box: str) -> list[dict[str, str]]:
    turns = [f"<image>\n{question} {VISUAL_COT_REQUEST}", box, "<image>", answer]
    return [{"from": "human" if i % 2 == 0 else "gpt", "value": turn} for i, turn in enumerate(turns)]


def conversation(number: Any, dataset: str = "gqa", name: str = "1.jpg", **more: Any) -> dict[str, Any]:
    """A row of viscot_363k.json about a 500x375 picture."""
    path = f"cot/{dataset}/{name}"
    return {"dataset": dataset, "split": "train", "question_id": number,
            "image": [path, f"{path}###[287, 71, 365, 249]"],
            "conversations": said(f"Who carries bag {number}?", "lady", TEXT_BOX)} | more  # fmt: skip


def metadata(number: int, dataset: str, name: str = "1.jpg", **more: Any) -> dict[str, Any]:
    """A line of *_cot_train.jsonl about a 500x375 picture."""
    return {"question": f"What is thing {number}?", "answer": "tv", "image": name, "width": 500, "height": 375,
            "bboxs": [[343.87, 94.03, 396.81, 126.06]], "dataset": dataset, "split": "train"} | more  # fmt: skip


def make_visual_cot(folder: Path) -> Made:
    pictures(folder, "cot/gqa/1.jpg")
    rows = [conversation(1), conversation(2, image=["cot/gqa/9.jpg", "cot/gqa/9.jpg###[1, 2, 30, 40]"]),
            conversation(3, conversations=[])]  # fmt: skip
    (folder / "gqa.json").write_text(json.dumps(rows))
    return Made(f"visual-cot:{folder}/gqa.json", "test")


def make_conversations(folder: Path) -> Made:
    pictures(folder, "cot/gqa/1.jpg", "cot/v7w/v7w_1.jpg", "cot/textvqa/t.jpg")
    bad = [
        conversation(8, conversations=said("Who?", "man", "[0.100, 0.100, 0.200, 0.200]")),
        conversation(9, name="none.jpg"),
        conversation(10, image=["cot/gqa/1.jpg", "cot/gqa/1.jpg###[600, 71, 700, 249]"]),
        conversation(11, conversations=said("", "man", "")),
        7,
    ]
    good = [conversation(i) for i in range(4)] + [conversation(5, "v7w", "v7w_1.jpg")]
    textcap = conversation(6, "textcap")
    textcap["image"] = ["cot/textvqa/t.jpg", "cot/textvqa/t.jpg###[287, 71, 365, 249]"]
    file = folder / "viscot_363k.json"
    file.write_text(json.dumps([*good, textcap, *bad]))
    return Made(f"visual-cot-train:{file}", "all")


def make_metadata(folder: Path) -> Made:
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for seed, name in enumerate(("vsr/1.jpg", "textvqa/t.jpg", "v7w/v7w_1.jpg", "docvqa/small.png")):
            file.writestr(f"cot_image_data/{name}", jpeg(seed, (250, 188) if "small" in name else SIZE))
    here = folder / "metadata"
    many = metadata(3, "vsr", bboxs=[[10, 20, 30, 40], [50, 10, 80, 30.5]], possible_answers=["tv", "television"])
    lines(here / "vsr_cot_train.jsonl", metadata(1, "vsr"), metadata(2, "vsr"), many,
          metadata(4, "vsr", bboxs=[[10, 20, 30]]), metadata(5, "vsr", answer=None), metadata(6, "vsr", "0.jpg"),
          "{")  # fmt: skip
    lines(here / "textcap_cot_train.jsonl", metadata(1, "textcap", "t.jpg"))
    lines(here / "visual7w_cot_train.jsonl", metadata(1, "v7w", "v7w_1.jpg"))
    lines(here / "docvqa_cot_train.jsonl", metadata(1, "docvqa", "small.png"))
    return Made(f"visual-cot-train:{here}", "all", SourceOptions(images_root=archive))


def make_gqa(folder: Path) -> Made:
    columns = {"id": ["201307251", "2", "3"], "imageId": ["2354786", "9", "2354786"],
               "question": ["Is the sky dark?", "What is it?", "Who?"], "answer": ["yes", "cat", None],
               "isBalanced": [True] * 3, "fullAnswer": ["Yes, the sky is dark.", "A cat.", ""]}  # fmt: skip
    parquet(folder / "train_balanced_instructions/train-00000-of-00001.parquet", columns)
    images = {"id": ["2354786", "7"], "image": [stored(0), stored(1)]}
    parquet(folder / "train_balanced_images/train-00000-of-00001.parquet", images, "image")
    return Made(f"gqa:{folder}")


def make_textvqa(folder: Path) -> Made:
    url = "https://farm6.staticflickr.com/1.jpg"
    columns = {"image_id": ["0054c91397f2fe05"] * 2, "question_id": [0, 1], "question": ["what is the brand?", "?"],
               "image": [stored(0), None], "answers": [["nous les gosses", "dakota"] * 5, ["a"]],
               "flickr_original_url": [url] * 2, "set_name": ["train"] * 2}  # fmt: skip
    parquet(folder / "data/train-00000-of-00020.parquet", columns, "image")
    return Made(f"textvqa:{folder}")


def make_docvqa(folder: Path) -> Made:
    columns = {"questionId": ["49153", "49154"], "question": ["What is the value?", "What date?"],
               "question_types": [["handwritten"]] * 2, "image": [stored(0), stored(1)], "docId": [1, 2],
               "answers": [["0.28"], []], "data_split": ["val"] * 2}  # fmt: skip
    parquet(folder / "DocVQA/validation-00000-of-00006.parquet", columns, "image")
    return Made(f"docvqa:{folder}", "validation")


def make_infographicsvqa(folder: Path) -> Made:
    columns = {"questionId": ["98313", "98314"], "question": ["How many?", " "], "answers": [["3", "three"], ["4"]],
               "image": [stored(0), stored(1)], "image_url": ["https://example.org/1.png"] * 2}  # fmt: skip
    parquet(folder / "InfographicVQA/validation-00000-of-00005.parquet", columns, "image")
    return Made(f"infographicsvqa:{folder}", "validation")


def make_vsr(folder: Path) -> Made:
    with tarfile.open(folder / "train2017.tar", "w") as tar:
        data = jpeg(0)
        info = tarfile.TarInfo("./train2017/000000085637.jpg")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    good = {"image": "000000085637.jpg", "image_link": "http://images.cocodataset.org/train2017/000000085637.jpg",
            "caption": "The cat is behind the bench.", "label": 1, "relation": "behind"}  # fmt: skip
    rows = [good, good | {"label": 0}, good | {"label": 2}, good | {"image": "0.jpg"}, good | {"caption": ""}]
    lines(folder / "train.jsonl", *rows)
    return Made(f"vsr:{folder}", options=SourceOptions(images_root=folder / "train2017.tar/train2017"))


def make_visual7w(folder: Path) -> Made:
    asked = (
        "Question: What is on the table?\nChoices:\nA. A cat.\nB. A dog.\nC. Books.\nD. Cups.\nAnswer with the letter."
    )
    turn = {"user": asked, "assistant": "Answer: C", "source": "Visual7W"}
    texts = [[turn, turn | {"assistant": "Answer: E"}], [turn | {"user": "What?"}], [turn], []]
    images = [[stored(0)], [stored(1)], [stored(2), stored(3)], [stored(4)]]
    parquet(folder / "visual7w/train-00000-of-00009.parquet", {"images": images, "texts": texts}, "images")
    return Made(f"visual7w:{folder}")


def make_mix(folder: Path) -> Made:
    pictures(folder, "a.jpg")
    good = {"question": "What is it?", "answers": ["a cat"], "image": "a.jpg"}
    rows = [good | {"question": f"What is {i}?"} for i in range(40)]
    rows[3] = rows[3] | {"answers": []}
    lines(folder / "mine.jsonl", *rows)
    file = folder / "mix.toml"
    file.write_text(
        f'[mine]\nsource = "{folder}/mine.jsonl"\nsft = 10\ntrain = 24\n[drawn]\nsource = "spotlight"\ntrain = 8\n'
    )
    return Made(f"mix:{file}")


def make_spotlight(folder: Path) -> Made:
    return Made("spotlight")


MAKERS: dict[str, Callable[[Path], Made]] = {
    "spotlight": make_spotlight,
    "FILE.jsonl": make_jsonl,
    "FILE.parquet": make_parquet,
    "visual-cot": make_visual_cot,
    "visual-cot-train, conversations": make_conversations,
    "visual-cot-train, metadata": make_metadata,
    "gqa": make_gqa,
    "textvqa": make_textvqa,
    "docvqa": make_docvqa,
    "infographicsvqa": make_infographicsvqa,
    "vsr": make_vsr,
    "visual7w": make_visual7w,
    "mix": make_mix,
}


def read_all(source: Source) -> tuple[list[Question], list[Drop]]:
    rows = [source.read(i) for i in range(len(source))]
    return [row for row in rows if isinstance(row, Question)], [row for row in rows if isinstance(row, Drop)]


def main() -> None:
    from datasets import disable_progress_bars

    disable_progress_bars()
    print(f"{'source':32} {'rows':>4} {'questions':>9}  drops by reason")
    broken = False
    for name, make in MAKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            source = make(Path(folder)).open()
            questions, drops = read_all(source)
        counts = Counter(drop.reason for drop in drops)
        shown = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        print(f"{name:32} {len(source):4} {len(questions):9}  {shown}")
        broken |= len(questions) + len(drops) != len(source)
    sys.exit(broken)


if __name__ == "__main__":
    main()
