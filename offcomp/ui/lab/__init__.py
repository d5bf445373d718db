"""What all pages of the Lab share: the plan as one panel, its Run button, and the strip that compares the results."""
