"""Evaluate models on labeled questions (`visrl eval`). Start reading at evaluate.py."""
