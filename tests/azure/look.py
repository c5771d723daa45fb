"""A single look of the monitor at the endpoint of this folder: `python -m tests.azure.look`, a process of its own."""

from pathlib import Path

from brookside_mlops.alert_effects import Means
from brookside_mlops.alert_rules import DEFAULT_RULES
from brookside_mlops.monitor import Watched, look

if __name__ == "__main__":
    state = Path(".brookside")
    look(Watched(state, "viability-prod", DEFAULT_RULES, Means(state)))
