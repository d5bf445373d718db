"""Where a model's parameters are, by layer and kind. Modules selected here can be inspected or compressed."""

from offcomp.ui.frame import page
from offcomp.ui.model.page import show_model
from offcomp.ui.uploads import bring_model

with page("Model", "Where are the parameters?"):
    show_model()
    bring_model()
