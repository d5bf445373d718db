"""Which modules benefit from joint compression: all pairs, the merge tree, and the groups obtained by cutting it."""

from offcomp.ui.groups.page import show_groups
from offcomp.ui.lab.page import lab_page

lab_page("Groups", "What should be compressed together?", show_groups)
