"""A model: where its parameters are, by layer and kind. Modules are picked here, to inspect or to compress them."""

from offcomp.ui.bring import bring_model
from offcomp.ui.frame import page, told
from offcomp.ui.model import show_model

with page("Model", "Where are the parameters?"):
    with told():
        show_model()
    bring_model()
