"""The paper's tables, remade on Spotlight: `python -m studies` fills results/, `studies.render` writes RESULTS.md."""
