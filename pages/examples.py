"""Individual predictions of finished runs: which changed, by how much, and whether two runs fail on the same examples."""

from offcomp.ui.compare.selection import choose_runs
from offcomp.ui.examples.page import show_examples
from offcomp.ui.frame import page

with page("Examples", "Which predictions changed?"):
    runs = choose_runs()
    if runs:
        show_examples(runs)
