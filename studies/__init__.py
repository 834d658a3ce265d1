"""Reproduce the paper's tables on Spotlight: `python -m studies` fills results/, `studies.render` writes RESULTS.md."""
