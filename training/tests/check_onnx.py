"""An ONNX file and what chemtag says of some sequences -> whether ONNX Runtime says the same: python check_onnx.py MODEL.onnx CASES.json MOST_DIFFERENCE LEAST_EQUAL
Sequences go in sixteen to a batch, padded. Prints the largest difference of an emission or class logit and the share of sequences with the same spans as one object of JSON;
fails if they are above MOST_DIFFERENCE or below LEAST_EQUAL. Versions: tests/run-all.sh."""
import json
import sys

import numpy as np
import onnxruntime

model, cases, most_difference, least_equal = sys.argv[1], json.load(open(sys.argv[2])), *map(float, sys.argv[3:])
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
notes = session.get_modelmeta().custom_metadata_map
crf = {name: np.array(values, dtype=np.float32) for name, values in json.loads(notes["crf"]).items()}
transitions = crf["transitions"].reshape(3, 3).copy()
transitions[0, 2] = -np.inf
outputs = [output.name for output in session.get_outputs()]


def spans(emissions):
    """First and last word of each mention on the best valid path (Viterbi), tags O, B, I."""
    score, back = crf["start"] + emissions[0] + [0, 0, -np.inf], []
    for row in emissions[1:]:
        options = score[:, None] + transitions
        back.append(options.argmax(0))
        score = options.max(0) + row
    path = [int((score + crf["end"]).argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    path.reverse()
    found = []
    for place, tag in enumerate(path):
        if tag == 1:
            found.append([place, place])
        elif tag == 2:
            found[-1][1] = place
    return found


difference, equal = 0.0, 0
for first in range(0, len(cases), 16):
    group = cases[first : first + 16]
    length = max(len(case["ids"]) for case in group)
    ids = np.zeros((len(group), length), dtype=np.int64)
    mask = np.zeros((len(group), length), dtype=np.int64)
    for row, case in enumerate(group):
        ids[row, : len(case["ids"])] = case["ids"]
        mask[row, : len(case["ids"])] = 1
    computed = dict(zip(outputs, session.run(outputs, {"input_ids": ids, "attention_mask": mask})))
    for row, case in enumerate(group):
        emissions = computed["emissions"][row, case["word_starts"]]
        difference = max(difference, float(np.abs(emissions - np.array(case["emissions"])).max()))
        if case["class_logits"]:
            logits = computed["class_logits"][row, case["word_starts"]]
            difference = max(difference, float(np.abs(logits - np.array(case["class_logits"])).max()))
        equal += spans(emissions) == case["spans"]
print(json.dumps({"difference": difference, "equal": equal / len(cases), "sequences": len(cases)}))
sys.exit(difference > most_difference or equal < least_equal * len(cases))
