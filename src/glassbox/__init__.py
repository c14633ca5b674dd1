"""Glassbox: which of a teacher's signals is worth distilling. No library that it uses may report to its makers."""

import os

for _variable in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS", "HF_HUB_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "true")
