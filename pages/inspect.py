"""One weight matrix: its singular values, what a given rank keeps, and where the residual is large."""

from offcomp.ui.inspect.page import show_matrix
from offcomp.ui.lab.page import lab_page

lab_page("Inspect", "How compressible is this matrix?", show_matrix)
