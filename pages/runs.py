"""What is running, what is done, and what went wrong."""

from offcomp.ui.frame import page
from offcomp.ui.run_list import list_runs

with page("Runs", "What is running, and what came of it?"):
    list_runs()
