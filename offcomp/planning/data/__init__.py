"""Read, count and check user-supplied tasks, texts and tables. No torch."""
