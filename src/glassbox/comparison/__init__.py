"""The comparison of a study's trials. study.py runs it from end to end; its statistics load none of the rest."""
