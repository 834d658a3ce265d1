"""The recipe of Spotlight's weights: from nothing to base and actor, seeded and resumable.

    python -m studies.spotlight.train --work DIR [--stages eyes,words,...] [--device cuda]
    torchrun --nproc-per-node 2 -m studies.spotlight.train --work DIR ...

The second form trains data-parallel: on two CPU cores, two processes of one thread do nearly twice the
work of one, and of one with two threads. Batch sizes below are those of each process. The shipped weights:

    python -m studies.spotlight.train --work DIR --stages eyes &
    python -m studies.spotlight.train --work DIR --stages words; wait
    torchrun --nproc-per-node 2 -m studies.spotlight.train --work DIR --stages meet,talk,judge,relate,firm
    python -m studies.spotlight.train --work DIR --stages spell,base,actor

Stages, in order, with their time on two CPU cores that others used too:
    eyes   30 min  vision tower and projector learn to emit the code of the truth under each image token
    words  29 min  language model learns the four tasks on such codes, without pixels (ran beside eyes)
    meet   22 min  language model continues with the tower's own tokens in place of the codes
    talk   10 min  and learns to compare answers in more words, and to answer at once
    judge  14 min  and to judge crops by the digit alone, where the question does not tell the shape
    relate 14 min  language model learns relations, again on codes, and is told where to look (gaze.py)
    firm   28 min  everything once more on pixels, with right labels alone and critics that read past remarks
    spell   2 min  the same, with number words that begin as their digits (one process)
    base           writes the base model folder
    actor   7 min  LoRA warm-up of the focus and answer turns on the base; writes the actor folder

The shipped weights are a second edition: `eyes` to `judge` were not run again but taken from the first edition's
float16 folder, whose recipe had fewer wordings of the critics' prompts and fewer relations; `relate` and what
follows came after. `firm` had no wordings of any words (phrases.ANY_WORDS) before step 600.

What made it work at this size, after end-to-end training from scratch had not: codes that both halves
know beforehand, in which a copy of an object's code is already the word or the first coordinate that is
asked for; captions before questions (see lessons.caption_lesson); and comparing two answers first where nothing
else is in sight. The codes are privileged knowledge of the renderer, used in training only.

Every batch is a function of (stage, step, process), so an interrupted stage resumes from its last
checkpoint with the same result. Work files: DIR/STAGE.pt and DIR/STAGE.log; `base` and `actor` write
into DIR too, and the shipped folders are copies of those.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import distributed
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from studies.spotlight import learn
from studies.spotlight.build import (
    add_adapter,
    build_model,
    build_processor,
    load_base,
    move_to,
    save_actor,
    save_base,
    start_number_words,
)
from studies.spotlight.gaze import find_looks
from studies.spotlight.lessons import (
    HASTY,
    REMARKS,
    Lesson,
    Writer,
    actor_lesson,
    caption_lesson,
    compare_lesson,
    direct_lesson,
    make_lesson,
    one_crop_lesson,
    pairs_lesson,
    point_lesson,
    quiz_lesson,
    relations_lesson,
    strange_lesson,
)

CHECKPOINT = 200
"""Steps between checkpoints."""
SHOW = 50
"""Steps between lines of the log."""


@dataclass(frozen=True, slots=True)
class RecipeStage:
    """`rate` is the peak learning rate: warmed up over 100 steps, constant, then falling to 2 % over the
    last 40 % of the steps.
    """

    name: str
    steps: int
    batch: int
    rate: float


EYES = RecipeStage("eyes", steps=9000, batch=6, rate=2e-3)
WORDS = RecipeStage("words", steps=2400, batch=16, rate=2e-3)
MEET = RecipeStage("meet", steps=1300, batch=16, rate=1e-3)
TALK = RecipeStage("talk", steps=420, batch=48, rate=8e-4)
JUDGE = RecipeStage("judge", steps=450, batch=16, rate=8e-4)
RELATE = RecipeStage("relate", steps=750, batch=16, rate=2e-3)
FIRM = RecipeStage("firm", steps=950, batch=16, rate=1e-3)
SPELL = RecipeStage("spell", steps=100, batch=16, rate=4e-4)
ACTOR = RecipeStage("actor", steps=600, batch=16, rate=1.5e-3)
NOISE = 0.07
"""Noise on code coefficients in the words stage; stands for the tower's errors."""
WORDS_SHARES = (
    (0.12, (0.60, 0.10, 0.10, 0.15, 0.05)),
    (0.40, (0.20, 0.15, 0.05, 0.50, 0.10)),
    (1.00, (0.08, 0.10, 0.12, 0.50, 0.20)),
)
"""Shares of captions, quizzes, comparisons, the four tasks and pairs, up to a share of the words stage."""
RELATE_SHARES = (
    (0.47, (0.70, 0.10, 0.10, 0.10, 0.00)),
    (1.00, (0.20, 0.05, 0.15, 0.40, 0.20)),
)
"""Shares of relations, captions, quizzes, pointing and comparisons, up to a share of the relate stage."""
ALL_SHARES = (0.10, 0.04, 0.12, 0.12, 0.62)
"""Shares of strange pictures, answers at once, relations, single crops and the four tasks from the
firm stage on."""
STRANGE = 0.12
"""Share of lessons from outside the drawn world, once there are pixels."""

_COMPARE = partial(compare_lesson, turns=1, plain=0.7, remarks=REMARKS)

Loss = tuple[torch.Tensor, dict[str, float]]


def main() -> None:
    stages = {make.__name__: make for make in (eyes, words, meet, talk, judge, relate, firm, spell, base, actor)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the work files")
    parser.add_argument("--stages", default=",".join(stages), help="which stages, in order")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "WORLD_SIZE" in os.environ:  # set by torchrun
        distributed.init_process_group("gloo")
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.stages.split(","):
        stages[name](arguments.work, torch.device(arguments.device))
        if distributed.is_initialized():
            distributed.barrier()


def eyes(work: Path, device: torch.device) -> None:
    """Train tower and projector: pictures -> codes. Snug crops first, since digits are learnt from those."""
    model = move_to(build_model(build_processor()), device)

    def loss_of(rng: random.Random, done: float) -> Loss:
        return learn.sight_loss(model, learn.scene_views(rng, EYES.batch, tight=max(0.2, 0.8 - 2 * done)))

    run(EYES, work, _part(model, ("vision_tower", "multi_modal_projector")), loss_of)


def words(work: Path, device: torch.device) -> None:
    """Train the language model on codes: all four tasks, without a pixel."""
    processor = build_processor()
    model, writer = move_to(build_model(processor), device), Writer(processor.tokenizer)

    def loss_of(rng: random.Random, done: float) -> Loss:
        shares = next(shares for end, shares in WORDS_SHARES if done < end)
        makers = rng.choices(
            (caption_lesson, quiz_lesson, compare_lesson, make_lesson, pairs_lesson), shares, k=WORDS.batch
        )
        lessons = [make(rng, writer) for make in makers]
        batch = [view for lesson in lessons for view in lesson.views]
        image_tokens = learn.true_tokens(batch, NOISE, seed=rng.getrandbits(32))
        return learn.language_loss(model, learn.collate(lessons), image_tokens, lessons)

    run(WORDS, work, _part(model, ("language_model",)), loss_of)


def meet(work: Path, device: torch.device) -> None:
    """Train the language model on what the tower, now fixed, makes of pixels."""
    model, writer = _load(WORDS, work, device)

    def loss_of(rng: random.Random, done: float) -> Loss:
        plain, varied = (0.8, 0.0) if done < 0.4 else (0.5, 0.5)
        make = partial(_any_lesson, compared=0.3, plain=plain, varied=varied)
        return learn.language_loss(model, *_make_batch(model, rng, MEET.batch, make, writer))

    run(MEET, work, _part(model, ("language_model",)), loss_of)


def talk(work: Path, device: torch.device) -> None:
    """Train comparing answers, one short turn each and digits first, beside a smaller batch of everything, which now
    also has answers at once, without a box.
    """
    model, writer = _load(MEET, work, device)

    def loss_of(rng: random.Random, done: float) -> Loss:
        make = partial(_any_lesson, compared=0.0, direct=0.1)
        everything, figures = learn.language_loss(model, *_make_batch(model, rng, TALK.batch // 4, make, writer))
        plain = 1.0 if done < 0.4 else 0.6
        lessons = [compare_lesson(rng, writer, turns=1, plain=plain) for _ in range(TALK.batch)]
        compared, more = learn.language_loss(model, learn.collate(lessons), None, lessons)
        return everything + compared, figures | more

    run(TALK, work, _part(model, ("language_model",)), loss_of)


def judge(work: Path, device: torch.device) -> None:
    """Train both critics, one short turn each, beside as much of everything."""
    model, writer = _load(TALK, work, device)

    def loss_of(rng: random.Random, done: float) -> Loss:
        make = partial(_any_lesson, compared=0.0, direct=0.05)
        everything, figures = learn.language_loss(model, *_make_batch(model, rng, JUDGE.batch, make, writer))
        crops, more = learn.language_loss(model, *_make_batch(model, rng, JUDGE.batch, one_crop_lesson, writer))
        lessons = [compare_lesson(rng, writer, turns=1, plain=0.7) for _ in range(2 * JUDGE.batch)]
        compared, most = learn.language_loss(model, learn.collate(lessons), None, lessons)
        return everything + crops + compared, figures | more | most

    run(JUDGE, work, _part(model, ("language_model",)), loss_of)


def relate(work: Path, device: torch.device) -> None:
    """Train the second hop on codes: things named by their neighbors, in captions and then in questions."""
    model, writer = _load(JUDGE, work, device)
    model.set_attn_implementation("eager")  # which tells where it looks

    def loss_of(rng: random.Random, done: float) -> Loss:
        shares = next(shares for end, shares in RELATE_SHARES if done < end)
        compared = partial(compare_lesson, remarks=REMARKS)
        makers = (relations_lesson, caption_lesson, quiz_lesson, point_lesson, compared)
        lessons = _draw(rng, RELATE.batch, lambda *of: rng.choices(makers, shares)[0](*of), writer)
        batch = [view for lesson in lessons for view in lesson.views]
        image_tokens = learn.true_tokens(batch, NOISE, seed=rng.getrandbits(32))
        looks = find_looks(lessons, writer)
        return learn.language_loss(model, learn.collate(lessons), image_tokens, lessons, looks)

    run(RELATE, work, _part(model, ("language_model",)), loss_of)


def firm(work: Path, device: torch.device) -> None:
    """Train everything once more on pixels: pointing with right labels alone, critics that read past remarks."""
    model, writer = _load(RELATE, work, device)
    _train_all(FIRM, work, model, writer, lambda done: [_COMPARE] * (1 if done < 0.63 else 2) * FIRM.batch)


def spell(work: Path, device: torch.device) -> None:
    """Train the same, from number words that begin as near copies of their digits."""
    model, writer = _load(FIRM, work, device)
    start_number_words(model, writer.encode)
    _train_all(SPELL, work, model, writer, lambda done: [partial(_COMPARE, spelled=0.3)] * SPELL.batch)


def _train_all(
    stage: RecipeStage,
    work: Path,
    model: LlavaForConditionalGeneration,
    writer: Writer,
    comparisons: Callable[[float], list[Callable[..., Lesson]]],
) -> None:
    """Train everything on pixels, beside comparisons of answers, which weigh by their number."""
    model.set_attn_implementation("eager")  # which tells where it looks
    makers = (
        strange_lesson,
        direct_lesson,
        partial(relations_lesson, clear=False),
        partial(one_crop_lesson, remarks=REMARKS),
        partial(make_lesson, remarks=REMARKS, shares=(0.55, 0.11, 0.23, 0.11)),
    )

    def make(rng: random.Random, writer: Writer) -> Lesson:
        return rng.choices(makers, ALL_SHARES)[0](rng, writer)

    def loss_of(rng: random.Random, done: float) -> Loss:
        tokens, image_tokens, lessons = _make_batch(model, rng, stage.batch, make, writer)
        looks = find_looks(lessons, writer)
        everything, figures = learn.language_loss(model, tokens, image_tokens, lessons, looks)
        compared = sorted((make(rng, writer) for make in comparisons(done)), key=lambda lesson: len(lesson.tokens))
        loss, more = learn.language_loss(model, learn.collate(compared), None, compared)
        return everything + 0.5 * len(compared) / stage.batch * loss, figures | more

    run(stage, work, _part(model, ("language_model",)), loss_of)


def base(work: Path, device: torch.device) -> None:
    """Put the parts together and write the base model folder."""
    if _rank() > 0:
        return
    model, processor = _assemble(work, SPELL)
    save_base(model, processor, work / "base")


def actor(work: Path, device: torch.device) -> None:
    """Train the LoRA warm-up (the paper's SFT) of focus and answer turns, worded as the pipeline words them."""
    model, processor = load_base(work / "base")
    tuned, writer = add_adapter(move_to(model, device)), Writer(processor.tokenizer)

    def loss_of(rng: random.Random, done: float) -> Loss:
        return learn.language_loss(model, *_make_batch(model, rng, ACTOR.batch, _actor_lesson, writer))

    run(ACTOR, work, {name: p for name, p in tuned.named_parameters() if p.requires_grad}, loss_of)
    if _rank() == 0:
        save_actor(tuned, processor, work / "actor", work / "base")


def run(stage: RecipeStage, work: Path, trained: dict[str, torch.nn.Parameter], loss_of: Callable[..., Loss]) -> None:
    """Train `trained` in place to the end of the stage, from its last checkpoint if there is one.

    `loss_of(rng, done)` gives the loss and figures of one step; `done` is the share of steps behind.
    """
    matrices = [p for name, p in trained.items() if p.ndim > 1 and "embed_tokens" not in name]
    others = [p for name, p in trained.items() if p.ndim < 2 or "embed_tokens" in name]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98))
    first = _resume(work / f"{stage.name}.pt", trained, optimizer)
    started = time.monotonic()
    shown: dict[str, float] = {}
    rank = _rank()
    for step in range(first, stage.steps):
        done = step / stage.steps
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * min((step + 1) / 100, 1.0, max(0.02, (1 - done) / 0.4))
        loss, figures = loss_of(random.Random(f"{stage.name}/{step}" + f"/{rank}" * (rank > 0)), done)
        optimizer.zero_grad()
        loss.backward()
        _share_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        for name, value in figures.items():
            shown[name] = 0.95 * shown.get(name, value) + 0.05 * value
        if rank > 0:
            continue
        if (step + 1) % SHOW == 0:
            line = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
            with (work / f"{stage.name}.log").open("a", encoding="utf-8") as log:
                log.write(f"{step + 1} {time.monotonic() - started:.0f}s {line}\n")
        if (step + 1) % CHECKPOINT == 0 or step + 1 == stage.steps:
            _save(work / f"{stage.name}.pt", step + 1, trained, optimizer)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _share_gradients(trained: dict[str, torch.nn.Parameter]) -> None:
    """Average the gradients over the processes, if there are several."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in trained.values() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _any_lesson(
    rng: random.Random, writer: Writer, compared: float, plain: float = 0.0, varied: float = 0.0, direct: float = 0.0
) -> Lesson:
    """Build a lesson: strange, a share `compared` of comparisons and pairs, one `direct` of answers, or any task."""
    chance = rng.random()
    if chance > 1 - direct:
        return direct_lesson(rng, writer)
    if chance < STRANGE:
        return strange_lesson(rng, writer)
    if chance < STRANGE + 0.8 * compared:
        return compare_lesson(rng, writer, plain=plain, varied=varied)
    return pairs_lesson(rng, writer) if chance < STRANGE + compared else make_lesson(rng, writer, hasty=HASTY)


def _load(after: RecipeStage, work: Path, device: torch.device) -> tuple[LlavaForConditionalGeneration, Writer]:
    model, processor = _assemble(work, after)
    return move_to(model, device), Writer(processor.tokenizer)


def _actor_lesson(rng: random.Random, writer: Writer) -> Lesson:
    return strange_lesson(rng, writer, actor_only=True) if rng.random() < STRANGE else actor_lesson(rng, writer)


def _draw(rng: random.Random, count: int, make: Callable[..., Lesson], writer: Writer) -> list[Lesson]:
    """Draw `count` lessons, the short ones first."""
    return sorted((make(rng, writer) for _ in range(count)), key=lambda lesson: len(lesson.tokens))


def _make_batch(
    model: LlavaForConditionalGeneration, rng: random.Random, count: int, make: Callable[..., Lesson], writer: Writer
) -> tuple[learn.Tokens, torch.Tensor, list[Lesson]]:
    """Build `count` lessons with image tokens from the fixed tower: arguments of learn.language_loss."""
    lessons = _draw(rng, count, make, writer)
    with torch.no_grad():
        pixels = learn.render([view for lesson in lessons for view in lesson.views])
        image_tokens = learn.tower_tokens(model, pixels.to(model.device))
    return learn.collate(lessons), image_tokens, lessons


def _part(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if any(part in name for part in names)}


def _save(path: Path, step: int, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    weights = {name: p.detach().cpu() for name, p in trained.items()}
    new = path.with_suffix(".new")
    torch.save({"step": step, "weights": weights, "optimizer": optimizer.state_dict()}, new)
    new.replace(path)


def _resume(path: Path, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint, if there is one, and return the step to resume at."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved["weights"][name])
    optimizer.load_state_dict(saved["optimizer"])
    step: int = saved["step"]
    return step


def _assemble(work: Path, language: RecipeStage) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build the model with the tower after EYES and the language model after a later stage, and its processor."""
    processor = build_processor()
    model = build_model(processor)
    for stage in (EYES, language):
        weights = torch.load(work / f"{stage.name}.pt", weights_only=True)["weights"]
        model.load_state_dict(weights, strict=False)
    return model, processor


if __name__ == "__main__":
    main()
