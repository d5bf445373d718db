"""The web app: page frame, draft plan and widgets. The only package that imports streamlit.

It imports neither torch nor transformers: the app's process edits plans and reads files, and worker processes compute.
"""
