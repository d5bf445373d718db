"""The web app: page frame, draft plan and widgets. This is the only package that imports Streamlit.

It never imports torch or transformers: the app edits plans and reads files, and worker processes do the computation.
"""
