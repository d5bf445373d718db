"""Finished runs as tables, sentences, charts and reports: `results.X` builds a table, and `results.charts.X` draws it.

Imports neither torch nor Streamlit.
"""
