"""Active, finished and failed runs."""

from offcomp.ui.frame import page
from offcomp.ui.runs.page import list_runs

with page("Runs", "What is running, and how did earlier runs end?"):
    list_runs()
