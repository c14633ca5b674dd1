"""The settings: what params.yaml and conf/ may say, checked and frozen."""
