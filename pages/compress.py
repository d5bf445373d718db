"""Choose modules, their grouping, methods and a ratio; preview the exact error of SVD; run the methods and compare them."""

from offcomp.ui.compress.preview import show_what_if
from offcomp.ui.lab.page import lab_page

lab_page("Compress", "What if these weights were smaller?", show_what_if, always_compares=True)
