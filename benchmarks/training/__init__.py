"""How the bundled models were trained: each script is one command, seeded, and goes on where it was cut off."""
