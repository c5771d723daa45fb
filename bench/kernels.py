"""What a stage costs beyond its own work: stock papermill against ours, side by side, in one run.

    python bench/kernels.py [--runs 7] [--cells 20]

The notebook imports pandas, xgboost and mlflow, then has small cells, prose between them. Runs alternate, so that whatever else the machine
does meets both. Both processes have papermill loaded and ours its warm process; what that takes once is in the last line.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill

from brookside_mlops.execution import execute
from brookside_mlops.kernels import warm_up


def notebook(path: Path, cells: int) -> Path:
    """Write the notebook to run."""
    new = nbformat.v4
    parts = [new.new_code_cell("seed = 1", metadata={"tags": ["parameters"]})]
    parts.append(new.new_code_cell("import mlflow\nimport pandas as pd\nimport xgboost"))
    for number in range(cells // 2):
        parts += [
            new.new_markdown_cell(f"## Part {number}"),
            new.new_code_cell("pd.DataFrame({'a': [seed]})"),
        ]
    spec = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(new.new_notebook(cells=parts, metadata={"kernelspec": spec}), path)
    return path


def seconds(work: Callable[[], object]) -> float:
    """Run `work` and return how long it took."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cells", type=int, default=20)
    options = parser.parse_args()
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        source = notebook(Path(folder) / "stage.ipynb", options.cells)
        stock, ours = Path(folder) / "stock.ipynb", Path(folder) / "ours.ipynb"
        notes: list[str] = []

        def run_stock() -> None:
            papermill.execute_notebook(str(source), str(stock), {"seed": 2}, progress_bar=False)

        def run_ours() -> None:
            execute(source, ours, {"seed": 2}, log=notes.append)

        warm = seconds(lambda: warm_up().wait_warm())
        run_stock()
        run_ours()
        times = [(seconds(run_stock), seconds(run_ours)) for _ in range(options.runs)]
        same = [
            [
                cell.get("outputs", []) and [dict(one) for one in cell.outputs]
                for cell in nbformat.read(path, 4).cells
            ]
            for path in (stock, ours)
        ]
        if same[0] != same[1] or notes:
            raise SystemExit(f"the two did not do the same: {notes}")
    first, second = ([pair[side] for pair in times] for side in (0, 1))
    ratio = statistics.median(a / b for a, b in times)
    print(f"{options.cells + 2} cells, {options.runs} runs each, alternating, outputs equal\n")
    print("| runs the notebook | median s | least s | most s | stock / ours |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| papermill | {statistics.median(first):.2f} | {min(first):.2f} | {max(first):.2f} | |")
    print(f"| ours | {statistics.median(second):.2f} | {min(second):.2f} | {max(second):.2f} | {ratio:.1f} |")
    print(f"\nthe warm process, once, beside other work: {warm:.1f} s")


if __name__ == "__main__":
    main()
