"""Find and load actor and critic.

Called by factory.py and evaluation/: first find the models (cheap: nothing is loaded), then resolve the box space and
the crop rule, then load each set of weights once. The critic is the ORIGINAL model; where nothing records which one
that is, it must be named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from visrl_data.core.boxes import SPACES, needs_resized_size
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.image_settings import ImageSettings, check_images
from visrl_data.core.prompts import PromptSet, load_prompts
from visrl_data.engines.protocol import Engine, Role, Sampling
from visrl_data.engines.vllm_options import model_impl
from visrl_data.models.families import known_prompts, untuned_family
from visrl_data.models.model_folder import ModelFolder, find_model
from visrl_data.models.served import CRITIC_KEY, KEY, ServedModel, add_listing, find_served_model

Model = ModelFolder | ServedModel
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Actor and critic, loaded, and the settings of boxes and prompts for the actor.

    origin: the critic's id and digest, if known. prompts: those that the actor was trained on or its family has, some
    replaced by --prompts. zero_shot: the family whose conventions are used for an actor that VisRL did not train.
    """

    actor: Role
    critic: Role
    box_space: str
    crop_rule: CropRule
    origin: dict[str, str] | None = None
    prompts: PromptSet = field(default_factory=PromptSet)
    zero_shot: str | None = None

    @property
    def image_settings(self) -> ImageSettings | None:
        """How the actor is shown pictures; None for an engine that does not know."""
        return getattr(self.actor.engine, "image_settings", None)


def load_model_pair(config: GenConfig) -> ModelPair:
    """Find and load the models that the options name. Raises VisRLError, early where it can."""
    check_engines(config)
    actor = find_actor(config)
    critic = find_critic(config, actor)
    space, rule = resolve_box_settings(config, actor, config.box_space or native_space(actor))
    prompts = load_prompts(Path(config.prompts) if config.prompts else None, known_prompts(on_disk(actor), space))
    zero_shot = _zero_shot(config, actor, space, prompts)
    config = dataclasses.replace(config, max_pixels=resolve_max_pixels(config, actor, space))
    roles = load_roles(config, actor, critic, logprobs=True)
    if needs_resized_size(space):  # raises now when the actor's engine does not know how large it sees an image
        roles[0].engine.resized_size(Image.new("RGB", (64, 64)))
    origin = {"id": critic.id, "digest": critic.digest} if isinstance(critic, ModelFolder) else None
    return ModelPair(*roles, space, rule, origin, prompts, zero_shot)


def on_disk(model: Model) -> ModelFolder | None:
    """Return the model's local folder; None for a served model without one."""
    return model.folder if isinstance(model, ServedModel) else model


def model_fingerprint(model: Model) -> dict[str, str]:
    """Return what identifies a model's replies: its digests, or the name and address where it is served."""
    if isinstance(model, ServedModel):
        return {"id": model.id, "address": model.address}
    return {"digest": model.digest, "weights_digest": model.weights.digest}


def native_space(model: Model) -> str:
    """Return the box space of a model that records none: its family's.

    Raises UsageError for a served model of which nothing is known here.
    """
    if isinstance(model, ServedModel) and model.folder is None:
        root = f" (its server names {model.root}, which is not here)" if model.root not in ("", model.id) else ""
        raise UsageError(
            f"{model.id} is served, and nothing on this machine records how it writes boxes{root}. Name it: "
            "--box-space unit for three decimals from 0 to 1, or the `box_space` in the visrl.json of a model that "
            f"VisRL trained. Expected one of {', '.join(SPACES)}."
        )
    family = untuned_family(on_disk(model))
    return family.box_space if family else "unit"


def _zero_shot(config: GenConfig, actor: Model, space: str, prompts: PromptSet) -> str | None:
    """Return the name of the family whose conventions are used, if they are, and log which ones."""
    family = untuned_family(on_disk(actor))
    if family is None or config.box_space is not None:
        return None
    prompt = "--prompts" if config.prompts else "its family's focus prompt" if family.focus else "the default prompt"
    trained = "as its makers trained it" if family.trained_on_boxes else "a form that its makers did not train"
    known = f"Family {family.name}" if family.types else "No known family, so the defaults are used"
    logger.warning(
        "%s records no box space. %s; boxes: %s (%s); focus request: %s (%s).",
        actor.id, known, space, trained, prompt, prompts.focus.id,
    )  # fmt: skip
    return family.name


def check_engines(config: GenConfig) -> None:
    """Raise UsageError for options that the chosen engines do not support, before anything is loaded."""
    critic = critic_config(config)
    engines = (config.engine, critic.engine)
    if "openai" not in engines:
        for name in ("base_url", "critic_base_url"):
            if getattr(config, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} needs --engine openai or --critic-engine openai.")
    if config.quantize and "transformers" not in engines:
        hint = " Use --vllm-options quantization=bitsandbytes." if "vllm" in engines else ""
        raise UsageError(
            f"--quantize: the {config.engine} engine does not load weights in 4 bits, only transformers does.{hint}"
        )
    if config.vllm_options and "vllm" not in engines:
        raise UsageError("--vllm-options needs --engine vllm or --critic-engine vllm.")
    if config.constrain and engines != ("openai", "openai") and importlib.util.find_spec("llguidance") is None:
        raise UsageError("--constrain needs a package that reads grammars: pip install '.[grammar]'.")
    if engines == ("openai", "openai") and config.max_pixels is not None:
        raise UsageError("--max-pixels has no meaning with --engine openai: the server sets the size of pictures.")


def critic_config(config: GenConfig) -> GenConfig:
    """Return the options of the critic: its engine and address, greedy."""
    return dataclasses.replace(
        config,
        engine=config.critic_engine or config.engine,
        base_url=config.critic_base_url or config.base_url,
        temperature=0.0,
    )


def find_actor(config: GenConfig) -> Model:
    """Find the actor that the options name, without loading it."""
    if config.engine != "openai":
        return find_model(config.model, config.trust_remote_code)
    actor = _ask_server(find_served_model(config.model, config.base_url))
    if actor.folder is None and (config.box_space is None or needs_resized_size(config.box_space)):
        with contextlib.suppress(VisRLError):  # its name is no Hub id
            actor = dataclasses.replace(actor, folder=find_model(actor.id, config.trust_remote_code, weights=False))
    return actor


def find_critic(config: GenConfig, actor: Model) -> Model:
    """Find the critic that the options name, else the ORIGINAL model of the actor, without loading it.

    A served critic's key is in CRITIC_KEY; that of the actor is used only at the actor's own address, or when the
    actor needs none. Raises UsageError when the original model is not known.
    """
    options = critic_config(config)
    is_same_place = (options.engine, options.base_url) == (config.engine, config.base_url)
    name = options.critic or (is_same_place and served_origin(actor)) or actor.origin_base
    if name is None:
        raise UsageError(
            f"{actor.id} is served, so the ORIGINAL model that it was trained from is not known here. "
            f"Name the critic: --critic ID; --critic {actor.id} if it was never trained."
        )
    if options.engine != "openai":
        return find_model(name, options.trust_remote_code)
    critic = _ask_server(find_served_model(name, options.base_url))
    apart = isinstance(actor, ServedModel) and actor.address != critic.address
    return dataclasses.replace(critic, key=CRITIC_KEY if apart or os.environ.get(CRITIC_KEY) else KEY)


def served_origin(model: Model) -> str | None:
    """Return the name of a served adapter's base at its server, where it is the ORIGINAL model; else None."""
    folder = on_disk(model)
    is_origin = folder is not None and folder.base is not None and folder.base.id == folder.origin_base
    return (model.parent or None) if isinstance(model, ServedModel) and is_origin else None


def _ask_server(model: ServedModel) -> ServedModel:
    """Return the model with what its server lists of it. Raises EngineLost when it does not answer."""
    from visrl_data.engines.chat_server import list_model

    return add_listing(model, list_model(model))


def resolve_box_settings(config: GenConfig, actor: Model | None, default_space: str = "unit") -> tuple[str, CropRule]:
    """Return box space and crop rule: the actor's recorded ones, else those of the options.

    default_space: used where neither names a box space. Raises VisRLError when record and options differ.
    """
    space = config.box_space or (actor and actor.box_space) or default_space
    default = (actor and actor.crop_rule) or CropRule()
    rule = CropRule(
        default.min_side if config.crop_min_side is None else config.crop_min_side,
        default.max_aspect if config.crop_max_aspect is None else config.crop_max_aspect,
    )
    for name, recorded, setting in (
        ("box space", actor and actor.box_space, space),
        ("crop rule", actor and actor.crop_rule, rule),
    ):
        if actor is not None and recorded is not None and recorded != setting:
            raise VisRLError(
                f"{actor.id} was trained with {name} {recorded}, but the options say {setting}. "
                "Leave the option out, or use a model that was trained with it."
            )
    return space, rule


def resolve_max_pixels(config: GenConfig, model: Model, box_space: str) -> int | None:
    """Return the bound of pictures: the option's, else that of the pictures that the model was trained on.

    Logs a line where the model was trained on pictures that were shown differently. Raises VisRLError where boxes of
    this space would then lie elsewhere.
    """
    folder = on_disk(model)
    if folder is None or isinstance(model, ServedModel):
        return config.max_pixels
    bound = folder.max_pixels if config.max_pixels is None else config.max_pixels
    from visrl_data.engines.loading import load_image_settings, trained_images

    if trained := trained_images(folder, bound, config.trust_remote_code):
        now = load_image_settings(folder, bound, config.trust_remote_code)
        advice = "Leave --max-pixels out: the model's own bound is the default."
        if note := check_images(f"In training, {folder.id}", trained, now, box_space, advice):
            logger.warning("%s", note)
    return bound


def load_roles(config: GenConfig, actor: Model, critic: Model, logprobs: bool = False) -> tuple[Role, Role]:
    """Load each set of weights once. logprobs: whether the actor will be asked for those of its replies.

    The critic is the actor's base with the adapter off only when the digests agree; else it is loaded apart.
    """
    options = critic_config(config)
    if {config.engine, options.engine} == {"vllm", "transformers"}:
        _check_neighbors(actor if config.engine == "vllm" else critic, config.vllm_options or {})
    is_one = _same(actor, critic) and config.engine == options.engine
    role = load_role(config if is_one else dataclasses.replace(config, score_mode="text"), actor, logprobs)
    if is_one:
        return role, role
    if _is_base(critic, actor) and config.engine == options.engine:
        return role, Role(role.engine, False)
    if config.engine == options.engine == "vllm":
        raise VisRLError(
            f"{critic.id} is not the base of {actor.id}, and vLLM takes the whole GPU for one set of weights. "
            "Serve one of them: --critic-engine openai --critic-base-url URL."
        )
    return role, load_role(options, critic)


def _check_neighbors(model: Model, options: Mapping[str, Any]) -> None:
    """Raise UsageError when a model in vLLM leaves transformers, in the same process, unfit to run another."""
    assert isinstance(model, ModelFolder)
    config = json.loads((model.weights.path / "config.json").read_text(encoding="utf-8"))
    if options.get("model_impl", model_impl(config)) == "transformers":
        raise UsageError(
            f"vLLM runs {model.id} by transformers' classes, which it changes, so the transformers engine can't run "
            "beside it. Use one engine for both, or serve one of them: --critic-engine openai --critic-base-url URL."
        )


def load_role(config: GenConfig, model: Model, logprobs: bool = False) -> Role:
    """Load a model, with its adapter on if it has one."""
    return Role(load_engine(config, model, logprobs), isinstance(model, ModelFolder) and model.base is not None)


def load_engine(config: GenConfig, model: Model, logprobs: bool = False) -> Engine:
    """Load a model on the engine that the options name. logprobs: whether to find out if a server gives them."""
    if isinstance(model, ServedModel):
        from visrl_data.engines.openai import OpenAIEngine

        return OpenAIEngine(
            model,
            Sampling(config.temperature, config.top_p, config.top_k, config.max_new_tokens),
            config.in_flight,
            trust_remote_code=config.trust_remote_code,
            constrain=config.constrain,
            expected_scores=config.score_mode == "expected",
            logprobs=logprobs,
        )
    if config.engine == "vllm":
        from visrl_data.engines.vllm import VLLMEngine

        return VLLMEngine(model, config.dtype, config.max_pixels, config.trust_remote_code, config.vllm_options)
    from visrl_data.engines.transformers import TransformersEngine

    return TransformersEngine(
        model,
        device=config.device,
        dtype=config.dtype,
        batch_size=config.batch_size,
        max_pixels=config.max_pixels,
        trust_remote_code=config.trust_remote_code,
        quantize=bool(config.quantize),
    )


def _same(actor: Model, critic: Model) -> bool:
    if isinstance(actor, ServedModel) and isinstance(critic, ServedModel):
        return (actor.address, actor.id) == (critic.address, critic.id)
    return isinstance(actor, ModelFolder) and isinstance(critic, ModelFolder) and actor.digest == critic.digest


def _is_base(critic: Model, actor: Model) -> bool:
    return isinstance(actor, ModelFolder) and actor.base is not None and actor.base.digest == critic.digest
