"""Models and tokenizers: loading, encoding, signals, generation."""
