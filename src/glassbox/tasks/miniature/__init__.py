"""The embedded miniature tasks and the models trained on them."""
