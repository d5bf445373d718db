"""Train small models for offcomp. Each script is a single command with a fixed seed, and resumes where it was interrupted."""
