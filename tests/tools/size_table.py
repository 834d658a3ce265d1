"""Write the table of docs/families.md: at which size a picture is shown to Qwen2.5-VL, by whom.

    python -m tests.tools.size_table

Sizes are computed by the functions that exports use. tests/runs/test_image_fit.py compares those with the processors of
transformers, tests/peers/ with LLaMA-Factory itself; that visrl's own commands show one size, or refuse another, is in
tests/train/test_image_settings.py and test_merge.py.
"""

from __future__ import annotations

from visrl_data.core.boxes import Size
from visrl_data.core.image_settings import ImageSettings, resized_size
from visrl_data.publishing.export_settings import llamafactory_size, swift_size
from visrl_data.runs.image_fit import STOCK_MAX_PIXELS, Program, stock_size

PICTURES = ((1100, 900), (4000, 3000))
BOUNDS = (None, 802_816)  # --max-pixels of the run
OTHER = 401_408


def record(bound: int | None) -> ImageSettings:
    """How Qwen2.5-VL is shown pictures with this --max-pixels."""
    bounds = {"min_pixels": 3136, "max_pixels": bound or STOCK_MAX_PIXELS, "multiple_of": 28}
    return {"family": "Qwen2.5-VL", "resize": "resized", "center_crop": False, "bounds": bounds, "max_pixels": bound}


def shown(size: Size, settings: ImageSettings) -> Size:
    return resized_size(size, settings["bounds"])


def exported(size: Size, settings: ImageSettings, *programs: Program) -> Size:
    """At what size the last program shows the picture of an export for all, which is resized where one would not."""
    kept = all(program(size, settings) == shown(size, settings) for program in programs)
    return programs[-1](size if kept else shown(size, settings), settings)


def rows() -> list[tuple[str, list[str]]]:
    """Who shows a picture, and the size for each run and picture; or what happens instead."""
    cases = [(size, record(bound)) for bound in BOUNDS for size in PICTURES]
    same = [text(shown(*case)) for case in cases]
    stock = [text(exported(*case, stock_size)) for case in cases]
    swift = [text(exported(*case, stock_size, swift_size)) for case in cases]
    without = [text(exported(*case, swift_size, stock_size)) for case in cases]
    llamafactory = [text(exported(*case, llamafactory_size)) for case in cases]
    smaller = [text(shown(size, record(OTHER))) for size, _ in cases]
    return [
        ("`visrl gen` makes the pairs", same),
        ("`visrl train rl1` on them, with the preset of Qwen2.5-VL or without", same),
        ("`visrl gen`, `visrl eval` and `visrl ask` with the trained model", same),
        ("the same with `--max-pixels 401408`", ["refused"] * len(cases)),
        ("`visrl merge`, loaded by stock transformers", same),
        ("TRL with the stock processor, on `rl1` of the published set", stock),
        ("LLaMA-Factory by the export's YAML", llamafactory),
        ("ms-swift by the export's script", swift),
        ("ms-swift on the export, without the script's environment", without),
        ("`visrl train rl1 --max-pixels 401408`: the boxes are rewritten", smaller),
    ]


def text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def size_table() -> str:
    heads = [f"{text(size)}, {'no bound' if bound is None else bound}" for bound in BOUNDS for size in PICTURES]
    lines = [" | ".join(["", "Qwen2.5-VL is shown a picture by", *heads, ""]).strip()]
    lines.append("|---" * (len(heads) + 1) + "|")
    lines += [f"| {who} | {' | '.join(sizes)} |" for who, sizes in rows()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(size_table())
