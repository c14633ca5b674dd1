"""Which trials of groups x seeds are due, and who runs them."""
