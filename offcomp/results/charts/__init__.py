"""The figures: `charts.X` draws what `results.X` tabulates."""
