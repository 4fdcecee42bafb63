from pathlib import Path

RUNS = Path("runs")
"""Where run folders are, unless a command is told otherwise."""
