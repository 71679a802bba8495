"""The output of benchmarks: machine, versions and load, and a table of medians."""

import csv
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def circumstances(threads: int) -> dict[str, str]:
    """Return machine, versions, commit and load, for the head of a table."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "threads": str(threads),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    """Return the checked out commit, with a `+` if files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return n, the median, and the range divided by the median."""
    middle = median(values)
    return {"n": len(values), "median": middle, "spread": (max(values) - min(values)) / middle}


def publish(name: str, head: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> None:
    """Print a table, and write it to docs/results/`name`.csv, with `head` in every row."""
    print("  ".join(f"{key}: {value}" for key, value in head.items()))
    columns = list(rows[0])
    texts = [columns, *([_text(row[column]) for column in columns] for row in rows)]
    widths = [max(len(text[i]) for text in texts) for i in range(len(columns))]
    for text in texts:
        print("  ".join(word.ljust(width) for word, width in zip(text, widths, strict=True)).rstrip())
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *head], lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _text(row[column]) for column in columns} | dict(head) for row in rows)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
