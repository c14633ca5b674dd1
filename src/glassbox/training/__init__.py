"""One trial, from its setup to its published result."""
