"""Figures of all rounds -> medians (and, in brackets, the least and the largest), and how many times faster chemtag is than the fastest of the others.

    report.py MEASURED.jsonl
"""

import collections
import json
import os
import pathlib
import statistics
import sys

WORKLOADS = {
    "A32": "32 pieces, ms", "A256": "256 pieces, ms",
    "B-sorted": "sentences sorted by length, pieces/s", "B-unsorted": "as they come, 16 to a batch, pieces/s",
}
OURS = "chemtag-"


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = [flag for flag in ("avx2", "avx_vnni", "avx512f", "avx512_vnni") if flag in fields["flags"].split()]
    return f"{fields['model name']}, family {fields['cpu family']}, model {fields['model']}, {os.cpu_count()} cores, {' '.join(flags)}"


def written(values):
    digits = 2 if statistics.median(values) < 1000 else 0
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main(measured):
    figures = collections.defaultdict(list)
    for line in map(json.loads, pathlib.Path(measured).read_text().splitlines()):
        if line.get("workload") in WORKLOADS:
            figures[line["threads"], line["engine"], line["workload"]].append(line["value"])
    print(f"{cpu()}; medians of {max(map(len, figures.values()))} rounds, in brackets the least and the largest\n")
    print("| threads | program | " + " | ".join(WORKLOADS.values()) + " |\n|---|---|" + "---|" * len(WORKLOADS))
    for threads in sorted({key[0] for key in figures}):
        engines = sorted({engine for of, engine, _ in figures if of == threads})
        for engine in engines:
            print(f"| {threads} | {engine} | " + " | ".join(written(figures[threads, engine, name]) for name in WORKLOADS) + " |")
        for ours in (engine for engine in engines if engine.startswith(OURS)):
            ratios = []
            for name in WORKLOADS:
                median = {engine: statistics.median(figures[threads, engine, name]) for engine in engines}
                others = {engine: value for engine, value in median.items() if not engine.startswith(OURS)}
                slower = name.startswith("A")  # milliseconds: less is better
                best = (min if slower else max)(others, key=others.get)
                ratio = median[best] / median[ours] if slower else median[ours] / median[best]
                ratios.append(f"**{ratio:.2f} x** {best}")
            print(f"| {threads} | {ours} against the fastest of the others | " + " | ".join(ratios) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
