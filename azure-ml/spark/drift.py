"""What Azure's Spark starts: the package comes with the code of the job, and is nowhere installed."""

import sys
from pathlib import Path

for place in (Path.cwd(), Path(__file__).resolve().parents[2]):
    if (place / "brookside_mlops").is_dir():
        sys.path.insert(0, str(place))
        break

from brookside_mlops.spark_entry import main  # noqa: E402

sys.exit(main())
