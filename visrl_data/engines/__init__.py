"""Run models: generate(requests) -> replies, the same for every kind of engine."""

from visrl_data.engines.torch_extensions import repair_imports

repair_imports()  # before anything imports transformers
