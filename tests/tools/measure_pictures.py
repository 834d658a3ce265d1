"""What encoding a shared picture once saves: operations of a preference step's forwards, policy and reference.

    python -m tests.tools.measure_pictures

Random models with about the proportions of LLaVA-1.5-7B (22 parameters of the language model to one of the tower,
as many tokens as patches) and of Qwen2.5-VL-7B (8 to one, where the model has 10; four patches to a token).
"""

from __future__ import annotations

import torch
from pytest import MonkeyPatch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import draw_photo
from tests.helpers.tiny_llava import llava
from tests.helpers.tiny_parts import stand_in_for_videos
from tests.helpers.tiny_qwen import qwen
from visrl_data.core.prompts import PromptSet
from visrl_train.image_features import encoded_once
from visrl_train.tokenization import Turn, Turns

LANGUAGE = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 16}
CLIP = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 336, "patch_size": 14}  # fmt: skip
QWEN = {"hidden_size": 192, "intermediate_size": 512, "depth": 2, "num_heads": 4, "fullatt_block_indexes": [1]}
PAIRS = 2


def rows(prompts: PromptSet, responses: bool) -> list[Turn]:
    """RL1: [wins | loses] of boxes; RL2: boxes and responses of the wins, then of the loses."""
    pictures = [(draw_photo(i, (448, 448)), draw_photo(i + 50, (448, 448))) for i in range(PAIRS)]
    focus = prompts.focus.parts(question="what is the number on the small red sign?")
    answer = prompts.answer.parts(question="what is the number on the small red sign?")
    half = [Turn("", focus, (whole,), "[0.100, 0.200, 0.300, 0.400]") for whole, _ in pictures]
    half += [Turn("", answer, both, "7") for both in pictures] if responses else []
    return [*half, *half]


def operations(model, batch, pictures) -> float:
    """Thousand millions of floating point operations; the same on every machine, unlike seconds."""
    with encoded_once(model, pictures), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch, logits_to_keep=8)
        model(**batch, logits_to_keep=8)
    return counter.get_total_flops() / 1e9


def main() -> None:
    stand_in_for_videos(MonkeyPatch())
    for name, made in (("LLaVA-1.5", llava(LANGUAGE, CLIP)), ("Qwen2.5-VL", qwen(LANGUAGE, QWEN, 448 * 448))):
        processor, model = made
        model.eval()
        for stage, responses in (("RL1", False), ("RL2", True)):
            batch = Turns(processor, tell_pictures=True).encode(rows(PromptSet(), responses))
            batch.pop("completion_mask")
            pictures = batch.pop("pictures")
            plain, once = operations(model, batch, None), operations(model, batch, pictures)
            print(
                f"{name} {stage}: {len(pictures)} pictures, {int(pictures.max()) + 1} distinct: "
                f"{plain:.1f} -> {once:.1f} GFLOP ({1 - once / plain:.0%} less)",
                flush=True,
            )


if __name__ == "__main__":
    main()
