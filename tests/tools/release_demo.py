"""The release as a user makes it, to be looked at: python -m tests.tools.release_demo FOLDER [--limit N]

`visrl gen` makes the default run and a second round of it, on the shipped model. The first is pushed to a loopback
Hub as v1.0; v1.0 and the second go out as v1.1. In a fresh process and cache every config is loaded by both
tags, and rl1 and rl2 are stepped through TRL's own DPOTrainer; a browser shows the card. Prints one JSON
object. Runs that FOLDER has already (round0, round1) are taken as they are. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.loopback_hub import LoopbackHub

REPO = "user/spotlight"
TAGS = ("v1.0", "v1.1")
CONFIGS = ("preferences", "rl1", "rl2", "candidates", "images")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE = """<!doctype html><meta charset="utf-8"><title>card</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; color: #24292f }}
img {{ max-width: 100% }}
table {{ border-collapse: collapse; margin-bottom: 1em }}
td, th {{ border: 1px solid #d0d7de; padding: 4px 10px }}
pre {{ background: #f6f8fa; padding: 1em; overflow: auto }}
blockquote {{ border-left: 4px solid #d0d7de; margin: 0; padding-left: 1em }}
</style><body>{}<script>onload = () => {{
  document.body.dataset.pictures = [...document.images].map(i => i.naturalWidth).join()
  document.body.dataset.height = document.documentElement.scrollHeight
}}</script>
"""


class Demo:
    """Commands in FOLDER, in the environment of a user whose Hub is the loopback one."""

    def __init__(self, folder: Path, hub: LoopbackHub) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        self.environment = {**clean, **hub.environment(folder / "home"), "TRL_DISABLE_TELEMETRY": "1"}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, *arguments: str) -> str:
        """stdout of a Python module; an error shows all that it said."""
        root = str(Path(__file__).parents[2])
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=self.environment | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=False,
        )
        self.seconds[name] = round(time.perf_counter() - began, 1)
        if done.returncode:
            raise RuntimeError(f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def visrl(self, name: str, *arguments: str) -> str:
        return self.run(name, "visrl_cli", *arguments)


def release(folder: Path, limit: int) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    with LoopbackHub() as hub:
        demo = Demo(folder, hub)
        for number in (0, 1):
            if not (folder / f"round{number}" / "manifest.json").is_file():
                demo.visrl(f"gen {number}", "gen", f"--limit={limit}", f"--round={number}", f"--output=round{number}")
        pushes = [
            ("push v1.0", "round0", "--hub-id", REPO, "--tag", "v1.0"),
            ("push again", "round0", "--hub-id", REPO, "--tag", "v1.0"),
            ("push v1.1", f"{REPO}@v1.0", "round1", "--tag", "v1.1"),
        ]
        said = {name: json.loads(demo.visrl(name, "push", *arguments, "--json")) for name, *arguments in pushes}
        loaded = {}
        for tag in TAGS:  # the trainer prints its log before
            loaded[tag] = json.loads(
                demo.run(f"load {tag}", "tests.tools.release_demo", "--load", tag).splitlines()[-1]
            )
        commits = [
            commit.message.split("\n")[0] for commit in hub.dataset(REPO).history(hub.dataset(REPO).resolve("main"))
        ]
        page = show_card(demo)
    states = {name: [result["state"], result["tag"]] for name, result in said.items()}
    return {"states": states, "commits": commits, "loaded": loaded, "card": page, "seconds": demo.seconds}


def load(tag: str) -> dict:
    """Rows of every config and split under a tag, and the losses of two stock DPO steps on rl1 and rl2."""
    from datasets import load_dataset

    facts: dict = {"rows": {}, "losses": {}}
    for config in CONFIGS:
        rows = load_dataset(REPO, config, revision=tag, cache_dir=f"cache-{tag}")
        facts["rows"][config] = {split: part.num_rows for split, part in rows.items()}
        if config in ("rl1", "rl2"):
            facts["losses"][config] = dpo_steps(rows["train"], f"out-{tag}-{config}")
    return facts


def dpo_steps(rows: object, output: str) -> list[float]:
    """TRL's DPOTrainer as it is, on the shipped base model."""
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    from visrl_data.models.model_folder import find_model

    base = find_model("spotlight-base").path
    arguments = DPOConfig(
        output, max_length=None, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(base),
        args=arguments,
        train_dataset=rows,
        processing_class=AutoProcessor.from_pretrained(base),
        peft_config=LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)"),
    )
    trainer.train()
    return [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]


def show_card(demo: Demo) -> dict | None:
    """The card at the last tag as a page, and a picture of it: FOLDER/card.png. None without a browser."""
    from markdown_it import MarkdownIt

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None
    command = "from huggingface_hub import snapshot_download as get; import sys; get(sys.argv[1], repo_type='dataset', "
    command += "revision=sys.argv[2], local_dir='shown')"
    subprocess.run([sys.executable, "-c", command, REPO, TAGS[-1]], cwd=demo.folder, env=demo.environment, check=True)
    shown = demo.folder / "shown"
    text = re.sub(r"\A---\n.*?\n---\n", "", (shown / "README.md").read_text("utf-8"), flags=re.DOTALL)
    (shown / "page.html").write_text(PAGE.format(MarkdownIt("commonmark").enable("table").render(text)), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--window-size=1000,1000"]
    flags.append(f"--user-data-dir={demo.folder / 'browser'}")
    address = (shown / "page.html").resolve().as_uri()
    page = subprocess.run([browser, *flags, "--dump-dom", address], capture_output=True, text=True, check=True).stdout
    height = int(re.findall(r'data-height="(\d+)"', page)[0])
    flags[4] = f"--window-size=1000,{height}"
    picture = f"--screenshot={demo.folder / 'card.png'}"
    subprocess.run([browser, *flags, "--hide-scrollbars", picture, address], capture_output=True, check=True)
    widths = [int(width) for width in re.findall(r'data-pictures="([\d,]*)"', page)[0].split(",")]
    return {"pictures": widths, "tables": page.count("<table>"), "height": height}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.release_demo", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--load", choices=TAGS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(options.load)))
    else:
        print(json.dumps(release(options.folder.resolve(), options.limit), indent=1))


if __name__ == "__main__":
    main()
