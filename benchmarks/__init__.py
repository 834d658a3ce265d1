"""How fast it is, measured: run from the source tree, with the test extras. models.py has the models for it."""

import visrl_data.engines  # noqa: F401  # before transformers: torch's extensions may need repair
