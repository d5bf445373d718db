"""Where a model's parameters are, by layer and kind. Modules selected here can be inspected or compressed."""

from offcomp.ui.lab.page import lab_page
from offcomp.ui.model.page import show_model
from offcomp.ui.uploads import bring_model

lab_page("Model", "Where are the parameters?", show_model, below=bring_model)
