"""`python -m tests.bench NAME [--quick] [--json]`: one benchmark, one ratio of two things measured in the same run."""

import argparse
import json
import sys
from typing import Any

from tests.bench import (
    attention,
    blocks,
    codec,
    compiled,
    dedupe,
    detect,
    equal,
    memory,
    models,
    nas,
    overhead,
    prepare,
    quality,
    reader,
    recovery,
    shares,
    sync,
    zoo,
)
from tests.bench.measurement import Benchmark, circumstances

BENCHMARKS: dict[str, Benchmark] = {
    "attention": attention.BENCHMARK,
    "blocks": blocks.BENCHMARK,
    "codec": codec.BENCHMARK,
    "compiled": compiled.BENCHMARK,
    "dedupe": dedupe.BENCHMARK,
    "detect": detect.BENCHMARK,
    "equal": equal.BENCHMARK,
    "memory": memory.BENCHMARK,
    "models": models.BENCHMARK,
    "nas": nas.BENCHMARK,
    "overhead": overhead.BENCHMARK,
    "prepare": prepare.BENCHMARK,
    "quality": quality.BENCHMARK,
    "reader": reader.BENCHMARK,
    "recovery": recovery.BENCHMARK,
    "shares": shares.BENCHMARK,
    "sync": sync.BENCHMARK,
    "zoo": zoo.BENCHMARK,
}


def report(name: str, result: dict[str, Any]) -> str:
    """The result for a reader: the ratio, then all that it was computed from."""
    values = {key: value for key, value in result.items() if key not in ("name", "ratio")}
    width = max(map(len, values))
    lines = [
        f"{key:{width}}  {value:g}" if isinstance(value, float) else f"{key:{width}}  {value}"
        for key, value in values.items()
    ]
    return "\n".join([f"{name}: {result['ratio']:.2f}  ({BENCHMARKS[name].ratio})", *lines])


def main(arguments: list[str]) -> None:
    """Run the benchmark that is named, and print what it found; nothing here passes or fails on time."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--quick", action="store_true", help="only the case that gives the ratio, under 5 minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--install", action="store_true", help="only install what is measured against, not counted")
    asked = parser.parse_args(arguments)
    benchmark = BENCHMARKS[asked.name]
    if asked.install:
        if benchmark.install is not None:
            benchmark.install()
        return
    found = benchmark.measure(asked.quick)
    result = {"name": asked.name, "ratio": found.pop("ratio"), "quick": asked.quick} | found | circumstances()
    print(json.dumps(result) if asked.json else report(asked.name, result))


if __name__ == "__main__":
    main(sys.argv[1:])
