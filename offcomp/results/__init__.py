"""Turns finished runs into tables, sentences, charts and reports: `results.charts.X` plots the tables built by `results.X`.

Does not import torch or Streamlit.
"""
