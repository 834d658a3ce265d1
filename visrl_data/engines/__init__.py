"""One door to every model: generate(requests) -> replies."""
