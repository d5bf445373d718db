"""SVD against the paper's autoencoder on one matrix: the autoencoder is seen learning, epoch by epoch."""

from offcomp.ui.frame import page
from offcomp.ui.race.page import show_race

with page("Race", "Can an autoencoder beat SVD?"):
    show_race()
