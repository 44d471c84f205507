"""Tags a text with a model that `chemtag-train export --onnx` wrote: python onnx_tag.py MODEL.onnx TEXT_FILE
Needs: pip install numpy onnxruntime tokenizers. Reads each sentence alone, as `chemtag tag --sentences` does."""
import json, re, sys
import numpy as np, onnxruntime, tokenizers

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
notes = session.get_modelmeta().custom_metadata_map
tokenizer = tokenizers.Tokenizer.from_str(notes["tokenizer.json"])
classes = json.loads(notes["config.json"])["chemtag"]["classes"]
crf = {name: np.array(values, dtype=np.float32) for name, values in json.loads(notes["crf"]).items()}
transitions = crf["transitions"].reshape(3, 3).copy()  # from and to: O, B, I
transitions[0, 2] = -np.inf  # a mention begins with B


def best_path(emissions):
    score, back = crf["start"] + emissions[0] + [0, 0, -np.inf], []
    for row in emissions[1:]:
        options = score[:, None] + transitions
        back.append(options.argmax(0))
        score = options.max(0) + row
    path = [int((score + crf["end"]).argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return path[::-1]


text = open(sys.argv[2], encoding="utf-8", newline="").read()
for sentence in re.finditer(r"\S(?:.|\n(?!\n))*?(?:[.!?](?=\s+[A-Z0-9(])|(?=\n\n|\s*\Z))", text):
    words = list(re.finditer(r"(?:[^\W_]|[\u0300-\u036f])+|\S", sentence.group()))
    pieces = [tokenizer.encode(word.group(), add_special_tokens=False).ids for word in words]
    ids = [tokenizer.token_to_id("[CLS]"), *(p for word in pieces for p in word), tokenizer.token_to_id("[SEP]")]
    starts = np.cumsum([1] + [len(word) for word in pieces[:-1]])
    batch = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)}
    emissions, logits = session.run(["emissions", "class_logits"], batch)
    path = best_path(emissions[0, starts])
    for first in (i for i, tag in enumerate(path) if tag == 1):
        last = next((i for i in range(first + 1, len(path)) if path[i] != 2), len(path)) - 1
        start, end = sentence.start() + words[first].start(), sentence.start() + words[last].end()
        print(f"{start}\t{end}\t{classes[logits[0, starts[first]].argmax()]}\t{text[start:end]}")
