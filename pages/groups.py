"""Which modules benefit from joint compression, shown for all pairs, as a merge tree, and as groups from cutting the tree."""

from offcomp.ui.groups.page import show_groups
from offcomp.ui.lab.page import lab_page

lab_page("Groups", "What should be compressed together?", show_groups)
