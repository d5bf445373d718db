"""Which modules benefit from joint compression: all pairs, the merge tree, and the groups obtained by cutting it."""

from offcomp.ui import draft
from offcomp.ui.frame import page
from offcomp.ui.groups.page import choose, show
from offcomp.ui.jobs import model_info

with page("Groups", "What should be compressed together?"):
    info = model_info(draft.model())
    show(info, *choose(info))
