"""Single predictions of finished runs: which changed sides, how far, and whether two runs fail on the same examples."""

from offcomp.ui.examples import show_examples
from offcomp.ui.frame import page
from offcomp.ui.selection import choose_runs

with page("Examples", "Which predictions changed?"):
    runs = choose_runs()
    if runs:
        show_examples(runs)
