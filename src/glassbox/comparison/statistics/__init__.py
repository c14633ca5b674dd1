"""Statistics of score arrays: functions of arrays only. No files, no MLflow, no drawing, no hidden random numbers."""

from glassbox.comparison.statistics.intervals import MeanInterval, mean_interval

__all__ = ["MeanInterval", "mean_interval"]
