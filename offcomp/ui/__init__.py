"""The app's parts: the frame of every page, the draft plan, and widgets. The only package that imports streamlit.

Importing it loads neither torch nor transformers: the app's process edits plans and reads files; workers compute.
"""
