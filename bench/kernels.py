"""What a stage costs beyond its own work: stock papermill against ours, side by side, in one run.

    python bench/kernels.py [--runs 7] [--cells 0 20]

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


def outputs(path: Path) -> list[list[dict[str, object]]]:
    """Return the outputs of each cell of an executed notebook."""
    return [[dict(one) for one in cell.get("outputs", [])] for cell in nbformat.read(path, 4).cells]


def compare(folder: Path, cells: int, runs: int) -> list[tuple[float, float]]:
    """Return the seconds of stock papermill and of ours for one notebook, run by turns; the outputs must be equal."""
    source = notebook(folder / "stage.ipynb", cells)
    stock, ours = folder / "stock.ipynb", folder / "ours.ipynb"
    notes: list[str] = []

    def run_stock() -> None:
        papermill.execute_notebook(str(source), str(stock), {"seed": 2}, progress_bar=False)

    def run_ours() -> None:
        execute(source, ours, {"seed": 2}, log=notes.append)

    run_stock()
    run_ours()
    times = [(seconds(run_stock), seconds(run_ours)) for _ in range(runs)]
    if notes or outputs(stock) != outputs(ours):
        raise SystemExit(f"the two did not do the same: {notes}")
    return times


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cells", type=int, nargs="+", default=[0, 20], help="small cells after the imports")
    options = parser.parse_args()
    logging.getLogger("papermill").setLevel(logging.ERROR)
    warm = seconds(lambda: warm_up().wait_warm())
    print(f"{options.runs} runs each, by turns; outputs equal; seconds, median (least to most)\n")
    print("| notebook | papermill | ours | papermill / ours |\n| --- | --- | --- | --- |")
    for cells in options.cells:
        with tempfile.TemporaryDirectory() as folder:
            times = compare(Path(folder), cells, options.runs)
        columns = [
            f"{statistics.median(side):.2f} ({min(side):.2f} to {max(side):.2f})"
            for side in zip(*times, strict=True)
        ]
        ratio = statistics.median(stock / ours for stock, ours in times)
        print(f"| imports and {cells} cells | {columns[0]} | {columns[1]} | {ratio:.1f} |")
    print(f"\nThe warm process imports once, beside other work: {warm:.1f} s.")


if __name__ == "__main__":
    main()
