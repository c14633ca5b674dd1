"""The marks of prompts that are more than text: noncharacters, which no data may hold."""

RENDERED = "\ufdd0"
"""A prompt that a chat template rendered begins with it: special pieces in it are meant and not spelled."""

RUNNING, BEGINNING, CUT = "\ufdd1", "\ufdd2", "\ufdd3"
"""Of a block of running text (running.py): it begins with RUNNING, and with BEGINNING at the start of a text; CUT ends
what stands before the block's tokens, and begins what stands after them."""
