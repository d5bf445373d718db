"""Read, validate and count user-supplied tasks, texts and tables. No torch."""
