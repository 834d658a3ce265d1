"""Load the model to train, choose its trainable parameters, and save it so that the next stage finds it.

ONE adapter is trained through SFT, RL1, RL2 and later rounds, always on the same original weights. A stage
that starts from full weights adds a new adapter to the linear layers of the LANGUAGE model; the vision
tower and the projector stay frozen, with --full too.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import set_seed

from visrl_data.engines.loading import load_model
from visrl_data.engines.quantization import four_bits, language_linears, language_model
from visrl_data.models.model_folder import ALIASES, ModelFolder, ModelReference, find_model, read_record
from visrl_train.config import TrainConfig


def load_policy(folder: ModelFolder, config: TrainConfig) -> Any:
    """Load the model of a folder for training: a PeftModel with one adapter, "default", or full weights.

    With --full an adapter is merged in memory, and the merged language model is trained.
    """
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model

    if config.full:
        # Small updates of weights are rounded away in bfloat16.
        model = load_frozen(folder, torch.float32, config.trust_remote_code)
        unfreeze_language_model(model)
        keep_vision_without_gradients(model)
        return model
    if config.quantize:
        model = load_quantized(folder.weights, config)
    else:
        model = load_model(folder.weights, compute_dtype(config), config.trust_remote_code)
    give_backbone(model)
    keep_vision_without_gradients(model)
    if folder.base is not None:
        model = PeftModel.from_pretrained(model, folder.path, is_trainable=True)
        # peft reads the base from here when it saves; it would look up an alias on the Hub.
        model.peft_config["default"].base_model_name_or_path = str(folder.weights.path)
        return model
    set_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=language_linears(model),
        task_type=TaskType.CAUSAL_LM,
    )
    return get_peft_model(model, lora)


def load_frozen(folder: ModelFolder, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """Load the model as plain weights (an adapter merged in), all of them frozen."""
    model = load_model(folder, dtype, trust_remote_code)
    if folder.base is not None:
        model = model.merge_and_unload()
    give_backbone(model)
    return model.requires_grad_(False)


def give_backbone(model: Any) -> None:
    """Let TRL's loss run a model up to its output layer where transformers has no module that does: Llama 4."""
    if model.base_model is model:
        model.model = partial(_run_backbone, model)


def _run_backbone(model: Any, *args: Any, **options: Any) -> Any:
    """Return the last hidden states; the output layer gets one position in passing."""
    outputs: list[Any] = []
    hook = model.get_decoder().model.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        model(*args, **options, logits_to_keep=1)
    finally:
        hook.remove()
    return SimpleNamespace(last_hidden_state=outputs[0].last_hidden_state)


def keep_vision_without_gradients(model: Any) -> None:
    """Let gradient checkpointing make only the embeddings of the text require gradients.

    transformers would take those of the vision tower, too. It is frozen, so all that it keeps for the way back would be
    for nothing; and Spotlight's gives a tuple, which can't require any.
    """

    hooks: list[Any] = []

    def enable() -> None:
        disable()
        embeddings = model.get_input_embeddings()
        hooks.append(embeddings.register_forward_hook(lambda _, __, output: output.requires_grad_(True)))

    def disable() -> None:
        while hooks:
            hooks.pop().remove()

    model.enable_input_require_grads, model.disable_input_require_grads = enable, disable


def load_quantized(weights: ModelFolder, config: TrainConfig) -> Any:
    """Load the language model's frozen weights in 4 bits and the rest as it is (QLoRA). Raises VisRLError."""
    dtype = compute_dtype(config)
    settings = four_bits(weights, dtype, not on_cpu(config), config.trust_remote_code)
    from peft import prepare_model_for_kbit_training

    model = load_model(weights, dtype, config.trust_remote_code, settings)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the trainer enables it


def load_reference(folder: ModelFolder, config: TrainConfig) -> Any:
    """Load the reference model with --full; return None for an adapter, of which TRL keeps a frozen copy."""
    return load_frozen(folder, compute_dtype(config), config.trust_remote_code) if config.full else None


def compute_dtype(config: TrainConfig) -> torch.dtype:
    if config.dtype == "auto":
        return torch.float32 if on_cpu(config) else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def on_cpu(config: TrainConfig) -> bool:
    return config.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def unfreeze_language_model(model: Any) -> None:
    _, prefix = language_model(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith((f"{prefix}.", "lm_head.")))


def token_limit(model: Any) -> int | None:
    """Return the maximum sequence length of the language model."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def save_adapter(model: Any, folder: ModelFolder, target: Path, state: dict[str, Any] | None = None) -> None:
    """Write the adapter "default" with the id of its base, so that find_model finds it from anywhere."""
    model.save_pretrained(target, selected_adapters=["default"], state_dict=state)
    name, _, revision = portable_id(folder.weights).partition("@")
    path = target / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= {"base_model_name_or_path": name, "revision": revision or None}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _share(target)


def save_full(model: Any, folder: ModelFolder, target: Path, state: dict[str, Any] | None = None) -> None:
    """Write full weights, in the dtype of the weights that they came from."""
    config = json.loads((folder.weights.path / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    model.to(dtype).save_pretrained(target, state_dict=state)
    _share(target)


def _share(folder: Path) -> None:
    """Give the files the permissions of any new file: safetensors writes them for the owner alone."""
    probe = folder / ".new"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)


def portable_id(folder: ModelFolder) -> str:
    """Return the id by which other folders refer to this one: an alias, name@commit, or an absolute path."""
    if folder.id in ALIASES:
        return folder.id
    if folder.revision is not None:
        return f"{folder.id.partition('@')[0]}@{folder.revision}"
    return str(folder.path)


def origin_record(folder: ModelFolder) -> ModelReference:
    """Return id and digest of the original model: the critic of every later round. Inherited, never replaced."""
    for model in (folder, folder.base):
        recorded = read_record(model.path).get("origin_base") if model is not None else None
        if recorded and "digest" in recorded:
            return {"id": recorded["id"], "digest": recorded["digest"]}
    same = [model for model in (folder, folder.base) if model is not None and model.id == folder.origin_base]
    origin = same[0] if same else find_model(folder.origin_base)
    return {"id": portable_id(origin), "digest": origin.digest}
