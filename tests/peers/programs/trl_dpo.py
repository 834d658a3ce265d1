"""Stock TRL on a published set: python trl_dpo.py DATASET CONFIG MODEL OUTPUT, JSON on stdout."""

import json
import sys

import trl
from datasets import load_dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

folder, config, model, output = sys.argv[1:]
rows = load_dataset(folder, config, split="train", cache_dir=f"{output}/cache")
settings = DPOConfig(
    output_dir=output, max_steps=2, per_device_train_batch_size=2, max_length=None, logging_steps=1, report_to=[],
    use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
)  # fmt: skip
adapter = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
trainer = DPOTrainer(model=model, args=settings, train_dataset=rows, peft_config=adapter)
batch = next(iter(trainer.get_train_dataloader()))
trainer.train()
losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
shapes = {name: list(value.shape) for name, value in batch.items() if hasattr(value, "shape")}
print("RESULT " + json.dumps({"trl": trl.__version__, "rows": len(rows), "batch": shapes, "losses": losses}))
