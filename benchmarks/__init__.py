"""How fast it is, measured: run from the source tree, with the test extras. models.py has the models for it."""
