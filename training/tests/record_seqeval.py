"""Records seqeval's strict IOB2 scores for tests/seqeval.rs.

    python -m venv VENV && VENV/bin/pip install seqeval==1.2.2
    VENV/bin/python training/tests/record_seqeval.py

Writes data/seqeval.json beside this file: random tag sequences, well-formed and malformed, the entities that seqeval
finds in them, and its micro precision, recall and F1 with mode='strict', scheme=IOB2. The seed is fixed, so a second run
writes the same file.
"""

import importlib.metadata
import json
import random
from pathlib import Path

from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2, Entities

SEED = 20240229
TYPES = ["X", "Y", "Z-Z"]


def well_formed(rng, length, types):
    """A sequence in which every I continues a mention of its type."""
    tags = []
    while len(tags) < length:
        if rng.random() < 0.5:
            tags.append("O")
            continue
        kind = rng.choice(types)
        tags.append(f"B-{kind}")
        tags += [f"I-{kind}"] * min(rng.choice([0, 0, 1, 2, 3]), length - len(tags))
    return tags


def malformed(rng, length, types):
    """Any tags in any order."""
    return [rng.choice(["O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in types)]) for _ in range(length)]


def odd(rng, length, types):
    """Tags that seqeval accepts though no corpus should hold them: no type, no hyphen, too many, a type on O."""
    forms = ["O", "B", "I", "B-", "BX", "IX", "B--X", "I-X-", "B-X", "I-X", "I--", "O-X", "B-_", "I-_"]
    return [rng.choice(forms) for _ in range(length)]


def noisy(rng, tags, make, types):
    """A prediction: the gold sequence with some of its tags replaced."""
    rate = rng.choice([0.0, 0.1, 0.3, 0.6])
    replacements = make(rng, len(tags), types)
    return [new if rng.random() < rate else old for old, new in zip(tags, replacements)]


def spans(sequences):
    found = Entities(sequences, IOB2).entities
    return [[[entity.start, entity.end, entity.tag] for entity in entities] for entities in found]


def case(gold, predicted):
    strict = {"mode": "strict", "scheme": IOB2, "average": "micro", "zero_division": 0}
    return {
        "gold": [" ".join(tags) for tags in gold],
        "predicted": [" ".join(tags) for tags in predicted],
        "gold_spans": spans(gold),
        "precision": float(precision_score(gold, predicted, **strict)),
        "recall": float(recall_score(gold, predicted, **strict)),
        "f1": float(f1_score(gold, predicted, **strict)),
    }


def main():
    rng = random.Random(SEED)
    cases = [
        case([["O", "O"]], [["O", "O"]]),
        case([["B-X", "I-X"]], [["O", "O"]]),
        case([["O", "O"]], [["B-X", "I-X"]]),
        case([["I-X", "I-X"]], [["I-X", "I-X"]]),
        case([["B-X", "I-X"]], [["B-X", "I-X"]]),
    ]
    makers = [(well_formed, well_formed), (well_formed, malformed), (malformed, malformed), (odd, odd)]
    for index in range(120):
        make_gold, make_predicted = makers[index % len(makers)]
        types = TYPES[:1] if rng.random() < 0.3 else TYPES
        gold = [make_gold(rng, rng.randint(1, 9), types) for _ in range(rng.randint(1, 3))]
        cases.append(case(gold, [noisy(rng, tags, make_predicted, types) for tags in gold]))

    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in cases)
    version = importlib.metadata.version("seqeval")
    recorded = f'{{"seqeval":"{version}","seed":{SEED},"cases":[\n{lines}\n]}}\n'
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    (folder / "seqeval.json").write_text(recorded, encoding="utf-8")


if __name__ == "__main__":
    main()
