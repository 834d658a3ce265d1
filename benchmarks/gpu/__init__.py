"""One command for a GPU: `python -m benchmarks.gpu`, see __main__.py."""
