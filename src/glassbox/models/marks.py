"""The mark of prompts in which special pieces are meant and not spelled."""

RENDERED = "\ufdd0"
"""A noncharacter that no data may hold: prompts that a chat template rendered begin with it."""
