"""Choose modules, grouping, methods and ratio, preview the exact SVD error, run the methods and compare them."""

from offcomp.ui.compress.preview import show_what_if
from offcomp.ui.lab.page import lab_page

lab_page("Compress", "What if these weights were smaller?", show_what_if, always_compares=True)
