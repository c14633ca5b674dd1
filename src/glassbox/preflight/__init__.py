"""The whole path of a study on two batches, before the long run: every check has a name, a result and a sentence."""
