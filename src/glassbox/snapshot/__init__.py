"""The snapshot: a teacher's signals for every training and validation sample, captured once and verified."""
