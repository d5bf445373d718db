"""Which modules gain by being compressed together: every pair, the tree of merges, and the groups at its cut."""

from offcomp.ui import draft
from offcomp.ui.frame import page
from offcomp.ui.group_choices import choose
from offcomp.ui.groups import show
from offcomp.ui.jobs import model_info

with page("Groups", "What should be compressed together?"):
    info = model_info(draft.model())
    show(info, *choose(info))
