"""Charts of results: `charts.X` plots the tables built by `results.X`."""
