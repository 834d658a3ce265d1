"""Compute run statistics (yields, drops, critics, boxes, the WP/LN audit) and show them.

run_statistics.py reads a run into report.json (accounting.py, audit.py, measures.py); tables.py prints it;
page.py and page_*.py write report.html; comparison.py compares two runs. charts.py and formats.py draw and
format for cards, training and evaluation too.
"""
