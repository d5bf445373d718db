"""Charts: `charts.X` draws what `results.X` tabulates."""
