"""What a run was worth: yields, drops, critics, boxes, the WP/LN audit, and the page that shows it.

run_statistics.py reads a run into report.json (accounting.py, audit.py, measures.py); tables.py prints it;
page.py and page_*.py draw report.html.
"""
