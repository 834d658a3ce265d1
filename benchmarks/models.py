"""Models to measure with: about 50 million random parameters, half in the vision tower, half in the language model.

    python -m benchmarks.models FOLDER      writes FOLDER/qwen and so on, and prints what they hold

The shapes of pictures and texts are the real ones: Qwen2.5-VL with patches of 14, merged by 2, native resolution
within the bounds of its published processor, and attention in windows of 112 pixels; Qwen3-VL and Qwen3.5 with patches
of 16; LLaVA-1.5 with 336 pixels square, patches of 14, 576 tokens a picture. Only width and depth are smaller. The same
seed gives the same weights.

Qwen's processor has a video part, which needs torchvision, and which models written here come without: call
stand_in_for_videos first. Pictures, all that is measured here, do not need it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers import tiny_parts
from visrl_data.core.prompts import PromptSet

VOCABULARY = 4096  # rows of the embedding; the tokenizer has fewer tokens, as real ones have
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
    "num_attention_heads": 8,
}  # fmt: skip
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
# The line break after a turn stands before the next one, so that a reply ends with its end token for any trainer.
QWEN_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>"
    "{% for m in messages %}\n<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if p.type == 'image' else p.text }}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
)
LLAVA_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
# As the published template, a turn's pictures come before all of its text; the beginning and the end of text are
# written out, which TRL's collator expects of a template and the published one leaves to the tokenizer.
LLAVA_CHAT = (
    "<s>{% for m in messages %}{{ m.role.upper() }}: "
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content if p.type == 'image' %}<image>\n{% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }}{{ '' if loop.last else ' ' }}{% endfor %}{% endif %}"
    "{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# Numbers digit by digit, as Qwen has them; a word keeps the blank before it.
PIECES = Regex(r"'(?:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")

SUBJECTS = (
    "man", "woman", "child", "dog", "cat", "bird", "horse", "car", "bus", "bicycle", "train", "truck", "sign",
    "building", "tree", "flower", "table", "chair", "lamp", "window", "door", "street", "bridge", "river",
    "mountain", "cloud", "bottle", "cup", "plate", "bowl", "knife", "phone", "screen", "keyboard", "book",
    "page", "chart", "map", "ticket", "label", "logo", "clock", "hat", "jacket", "shirt", "shoe", "ball", "player",
)  # fmt: skip
QUALITIES = (
    "red", "green", "blue", "yellow", "black", "white", "brown", "orange", "grey", "small", "large", "tall", "short",
    "round", "square", "old", "new", "open", "closed", "empty", "full", "wet", "bright", "dark", "wooden", "broken",
)  # fmt: skip
PLACES = (
    "left of", "right of", "above", "below", "behind", "in front of", "next to", "under", "on top of", "inside",
    "near", "between", "across from", "far away from", "at the edge of", "in the middle of",
)  # fmt: skip
STEMS = (
    "accept act add allow answer appear apply ask attack attend avoid back bank bind block board boil book bound brand "
    "build burn call camp care carry cast catch chain charge check claim clean clear climb close coast collect colour "
    "comb connect consider contain cook cool count cover crash cross crowd deal delay deliver demand depend design "
    "direct draw dream dress drift drink drop dust earn end enter expect explain express face fail fall farm fear feed "
    "field fill film find finish fish fit fix float flow fold follow force form frame gather grant greet ground group "
    "grow guard guess guide hand hang happen head heat help hold hope hunt iron join judge jump keep kick kiss knock "
    "land last laugh lead lean learn lift light link listen load lock long look mark match mean measure meet mention "
    "mix model need note offer order own pack paint park part pass pay perform pick plant play point pour press "
    "print protect prove pull push question rain reach read record reflect remain rent report rest return ring roll "
    "rush sail sand seem select sell send serve shape shift shout show sign sleep slow smell snow sort sound spell "
    "spend stand start stay step stop strain stretch succeed suggest suit support talk taste teach tell test thank "
    "think throw touch train travel treat trick turn twist view visit wait walk want warm warn wash watch wear weigh "
    "wish wonder work wrap yield"
)
FORMS = ("{}", "{}s", "{}ed", "{}ing", "{}er", "{}ers", "{}able", "re{}", "un{}ed", "{}ment")
SAYINGS = (
    "What is the colour of the {0}?", "How many are there of the {0}?", "Is the {0} {1} or {2}?",
    "What does the {0} that is {3} the {4} say?", "Which {0} stands {3} the {1} {4}?", "Who is holding the {0}?",
    "What number is written on the {1} {0}?", "Where does the {0} come from, and what was it made for?",
    "The {1} {0} is {3} the {2} {4}.", "There is no {0} in this picture, because the {4} hides it.",
    "According to the table, which value is the highest in the year before?", "It was taken in the afternoon.",
    "People are walking along the {0} while the {4} waits.", "Please read the text that is printed {3} the {0}.",
    "The total amount is shown at the bottom of the {0}, together with the date and the address.",
    "I would answer yes, since the {0} looks {1} and the {4} does not.",
    'The model replied with JSON: {{"score": 0.5, "bbox_2d": [10, 20, 300, 400]}}.',
)  # fmt: skip


def qwen(folder: Path, seed: int = 0) -> Path:
    """Write a model of Qwen2.5-VL's architecture with its processor to a folder."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = _qwen_tokenizer()
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=4 * 28 * 28, max_pixels=16384 * 28 * 28),
        tokenizer=tokenizer,
        video_processor=tiny_parts.NoVideos(),
        chat_template=QWEN_CHAT,
    )
    rope = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 12, "hidden_size": 384, "intermediate_size": 1024, "num_heads": 6, "window_size": 112,
            "fullatt_block_indexes": [2, 5, 8, 11], "out_hidden_size": TEXT["hidden_size"],
        },
        text_config={**TEXT, **_ids(tokenizer), "num_key_value_heads": 2, "rope_parameters": rope},
        **_vision_ids(tokenizer),
    )  # fmt: skip
    return _save(Qwen2_5_VLForConditionalGeneration, config, processor, folder, seed)


def qwen3(folder: Path, seed: int = 0) -> Path:
    """Write a model of Qwen3-VL's architecture to a folder: features of three layers of the tower go on (deepstack)."""
    rope = {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True, "rope_theta": 5e6}
    text = {"num_key_value_heads": 2, "head_dim": 64, "rope_parameters": rope}
    return _qwen3("qwen3_vl", text, {"deepstack_visual_indexes": [2, 5, 8]}, folder, seed)


def qwen35(folder: Path, seed: int = 0) -> Path:
    """Write a model of Qwen3.5's architecture to a folder: three layers of four are linear attention."""
    rope = {"rope_type": "default", "mrope_section": [3, 3, 2], "mrope_interleaved": True, "rope_theta": 1e7,
            "partial_rotary_factor": 0.25}  # fmt: skip
    text = {
        "num_key_value_heads": 2, "head_dim": 64, "rope_parameters": rope, "linear_num_key_heads": 4,
        "linear_num_value_heads": 8, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
        "layer_types": ([*["linear_attention"] * 3, "full_attention"] * 2),
    }  # fmt: skip
    return _qwen3("qwen3_5", text, {}, folder, seed)


def _qwen3(model_type: str, text: dict[str, Any], vision: dict[str, Any], folder: Path, seed: int) -> Path:
    from transformers import AutoConfig, AutoModelForImageTextToText, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = _qwen_tokenizer()
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=64 * 32 * 32, max_pixels=16384 * 32 * 32, patch_size=16),
        tokenizer=tokenizer,
        video_processor=tiny_parts.NoVideos(),
        chat_template=QWEN_CHAT,
    )
    eye = {"depth": 12, "hidden_size": 384, "intermediate_size": 1024, "num_heads": 6, "patch_size": 16}
    config = AutoConfig.for_model(
        model_type,
        vision_config={**eye, "out_hidden_size": TEXT["hidden_size"], **vision},
        text_config={**TEXT, **_ids(tokenizer), **text},
        **_vision_ids(tokenizer),
    )
    return _save(AutoModelForImageTextToText.from_config, config, processor, folder, seed)


def llava(folder: Path, seed: int = 0) -> Path:
    """Write a model of LLaVA-1.5's architecture with its processor to a folder."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaImageProcessorPil, LlavaProcessor

    tokenizer = _tokenizer(LLAVA_SPECIAL, end="</s>", pad="<pad>", begin="<s>")
    square = {"height": 336, "width": 336}
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size=square),
        tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=LLAVA_CHAT,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 448, "intermediate_size": 1792, "num_hidden_layers": 10,
            "num_attention_heads": 7, "image_size": 336, "patch_size": 14, "projection_dim": 448,
        },
        text_config={"model_type": "llama", **TEXT, **_ids(tokenizer), "num_key_value_heads": 8,
                     "max_position_embeddings": 4096},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return _save(LlavaForConditionalGeneration, config, processor, folder, seed)


def stand_in_for_videos() -> None:
    """For the rest of this process Qwen's processor gets a video part that does nothing."""
    tiny_parts.stand_in_for_videos(pytest.MonkeyPatch())


def parts(model: Any) -> dict[str, int]:
    """Count the parameters in the vision tower with its projector, and in the language model with its head."""
    counts = {"vision": 0, "language": 0}
    for name, parameter in model.named_parameters():
        counts["language" if "language_model" in name or "lm_head" in name else "vision"] += parameter.numel()
    return counts


def _tokenizer(special: tuple[str, ...], end: str, pad: str, begin: str | None = None) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on the prompts and from plain English."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    learn = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 64, special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(_sentences(), learn)
    if begin is not None:
        core.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=end, pad_token=pad, bos_token=begin, padding_side="left",
        additional_special_tokens=[token for token in special if token not in (end, pad, begin)],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer(QWEN_SPECIAL, end="<|im_end|>", pad="<|endoftext|>")


def _vision_ids(tokenizer: Any) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}


def _sentences() -> Iterator[str]:
    for prompt in PromptSet().all():
        yield prompt.template
    for i, subject in enumerate(SUBJECTS):
        for j, saying in enumerate(SAYINGS):
            k = 7 * i + 3 * j
            quality, other = QUALITIES[k % len(QUALITIES)], QUALITIES[(k + 5) % len(QUALITIES)]
            place, neighbour = PLACES[k % len(PLACES)], SUBJECTS[(k + 11) % len(SUBJECTS)]
            yield saying.format(subject, quality, other, place, neighbour)
    for stem in STEMS.split():
        for form in FORMS:
            word = form.format(stem)
            yield f"{word.capitalize()}, {word} and {word}."


def _ids(tokenizer: Any) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _save(kind: Any, config: Any, processor: Any, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    scaled(kind(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def scaled(model: Any) -> Any:
    """With weights that keep the size of what goes through them: the usual small ones answer the same to anything."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "embed" not in name:
                parameter.mul_(1 / (parameter.std() * math.sqrt(parameter[0].numel())))
    return model


def main() -> None:
    from transformers import AutoModelForImageTextToText

    stand_in_for_videos()
    for make in (qwen, qwen3, qwen35, llava):
        folder = make(Path(sys.argv[1]) / make.__name__)
        print(folder, parts(AutoModelForImageTextToText.from_pretrained(folder)))


if __name__ == "__main__":
    main()
