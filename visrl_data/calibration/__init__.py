"""Measure how far a critic's verdicts can be trusted, without labels (`visrl calibrate`). Start at calibrate.py."""
