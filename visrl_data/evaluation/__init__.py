"""`visrl eval`: models and labelled questions in, one table out. Start reading at evaluate.py."""
