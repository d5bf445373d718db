"""What a notebook imports as `offcomp.NAME`: compress live models and bare matrices, run plans, and plot finished runs."""
