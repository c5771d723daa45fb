"""Make deliveries.csv, the same rows each time: `python make_deliveries.py`."""

from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 1_500


def deliveries() -> pd.DataFrame:
    """Return deliveries with what was known when they left, and whether they came late."""
    random = np.random.default_rng(11)
    distance = random.gamma(2, 150, ROWS).round()
    stops = random.poisson(3, ROWS)
    carrier = random.choice(["north", "south", "express"], ROWS)
    hour = random.integers(5, 20, ROWS)
    odds = 0.012 * distance + 1.1 * stops + 0.35 * (hour - 10) - 3.0 * (carrier == "express") - 7.5
    late = random.random(ROWS) < 1 / (1 + np.exp(-1.5 * odds))
    columns = {"distance_km": distance, "stops": stops, "carrier": carrier, "hour": hour}
    return pd.DataFrame(columns | {"late": np.where(late, "yes", "no")})


if __name__ == "__main__":
    deliveries().to_csv(Path(__file__).with_name("deliveries.csv"), index=False)
