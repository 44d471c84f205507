"""Lengths of sentences -> the batches that every engine reads, those of `src/workload.rs` with the same made-up pieces.

    workloads.py LENGTHS.json MODEL OUT.json

Out: {"A32": [batch, ...], "A256": ..., "B-sorted": ..., "B-unsorted": ...}, a batch [[piece id, ...], ...].
"""

import json
import pathlib
import sys

SORTED_PIECES = 2048  # most pieces of a sorted batch, padding counted
UNSORTED_SEQUENCES = 16


def batch(lengths, vocabulary):
    """Sequences of pieces from a linear congruential generator that begins anew for each batch."""
    state, sequences = 1, []
    for length in lengths:
        sequence = []
        for _ in range(length):
            state = (state * 1_664_525 + 1_013_904_223) % 2**32
            sequence.append((state >> 8) % vocabulary)
        sequences.append(sequence)
    return sequences


def sorted_batches(lengths):
    batches, current = [], []
    for length in sorted(lengths):
        if current and (len(current) + 1) * length > SORTED_PIECES:
            batches.append(current)
            current = []
        current.append(length)
    return batches + [current]


def main(lengths_file, model, out):
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    longest = config["max_position_embeddings"]
    lengths = [min(length, longest) for length in json.loads(pathlib.Path(lengths_file).read_text())["lengths"]]
    unsorted = [lengths[i:i + UNSORTED_SEQUENCES] for i in range(0, len(lengths), UNSORTED_SEQUENCES)]
    workloads = {"A32": [[32]], "A256": [[256]], "B-sorted": sorted_batches(lengths), "B-unsorted": unsorted}
    made = {name: [batch(lengths, config["vocab_size"]) for lengths in batches] for name, batches in workloads.items()}
    pathlib.Path(out).write_text(json.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
