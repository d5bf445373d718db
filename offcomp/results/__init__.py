"""Finished runs as tables, sentences, figures and reports: `results.X` makes a table, `results.charts.X` draws it.

Imports neither torch nor Streamlit.
"""
