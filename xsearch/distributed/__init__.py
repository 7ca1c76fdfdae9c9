"""Work on several machines, by Ray."""
