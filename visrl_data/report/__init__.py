"""What a run was worth: yields, drops, critics, boxes, the WP/LN audit, and the page that shows it.

diagnostics.py reads a run into report.json (accounting.py, audit.py, measures.py); inspecting.py prints it;
page.py and page_*.py draw report.html.
"""
