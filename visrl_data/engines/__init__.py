"""Run models: generate(requests) -> replies, the same for every kind of engine."""
