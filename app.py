"""The Start page: one slider that stores a model in fewer bytes, and shows what breaks."""

from offcomp.ui.frame import page
from offcomp.ui.start.page import show_start

with page("Start", "Shrink a language model and see what breaks."):
    show_start()
