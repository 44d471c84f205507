"""A model folder and some text -> what the browser benchmark gives to every engine, in out/.

    python3 -m venv /somewhere && /somewhere/bin/pip install -r requirements.txt
    /somewhere/bin/python prepare.py [MODEL_FOLDER] [TEXT.jsonl]

Defaults: models/chemtag-small and tests/general_text.jsonl (a key `text` on each line). Writes

    fused.int8.onnx         the encoder and its emissions in ONNX Runtime's own fused operators (attention, residual with LayerNorm, GELU),
                            dynamically quantised to 8 bits: the fastest graph for onnxruntime-web
    models/chemtag-small/   a Hugging Face folder for transformers.js with the same in plain operators, model_quantized.onnx (q8)
    workloads.json          {"A32": [{"ids": [[...]], "texts": ["..."]}, ...], ...}: the same word pieces and texts for all

Both graphs are checked against each other before they are quantised.
"""
import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = HERE / "out"
LENGTHS = ROOT / "src" / "workload" / "lengths.json"
MAX_PADDED = 2048  # padded pieces of a batch of B-sorted
UNSORTED = 16  # sequences of a batch of B-unsorted
SENTENCES = 192  # of the lengths, so that a round of all engines takes a minute and a half
HIDDEN = -10000.0  # added to the attention of padding


class Graph:
    """Nodes and weights of a DistilBERT encoder with a linear head, fused or in plain operators."""

    def __init__(self, config, weights, fused):
        self.config, self.weights, self.fused = config, weights, fused
        self.nodes, self.initializers = [], {}

    def add(self, op, inputs, output, **attributes):
        domain = "com.microsoft" if op in ("Attention", "SkipLayerNormalization", "BiasGelu") else ""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def weight(self, name, transposed=False):
        value = self.weights[name].astype(np.float32)
        return self.constant(name, value.T.copy() if transposed else value)

    def constant(self, name, value):
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def linear(self, x, name, output):
        product = self.add("MatMul", [x, self.weight(f"{name}.weight", True)], f"{output}/product")
        return self.add("Add", [product, self.weight(f"{name}.bias")], output)

    def layer_norm(self, x, name, output):
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", [x, scale, bias], output, axis=-1, epsilon=1e-12)

    def residual_norm(self, x, skip, name, output):
        if self.fused:
            scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
            return self.add("SkipLayerNormalization", [x, skip, scale, bias], output, epsilon=1e-12)
        return self.layer_norm(self.add("Add", [x, skip], f"{output}/sum"), name, output)

    def gelu(self, x, name, output):
        product = self.add("MatMul", [x, self.weight(f"{name}.weight", True)], f"{output}/product")
        bias = self.weight(f"{name}.bias")
        if self.fused:
            return self.add("BiasGelu", [product, bias], output)
        value = self.add("Add", [product, bias], f"{output}/value")
        ratio = self.add("Div", [value, self.constant("sqrt2", np.float32(np.sqrt(2)))], f"{output}/ratio")
        shifted = self.add("Add", [self.add("Erf", [ratio], f"{output}/erf"), self.constant("one", np.float32(1))], f"{output}/shifted")
        product = self.add("Mul", [value, shifted], f"{output}/twice")
        return self.add("Mul", [product, self.constant("half", np.float32(0.5))], output)

    def attention(self, x, layer, output):
        names = [f"{layer}.attention.{part}_lin" for part in "qkv"]
        if self.fused:
            joined = np.concatenate([self.weights[f"{name}.weight"].astype(np.float32).T for name in names], 1)
            bias = np.concatenate([self.weights[f"{name}.bias"].astype(np.float32) for name in names])
            inputs = [x, self.constant(f"{layer}.qkv", joined), self.constant(f"{layer}.qkv_bias", bias), "lengths"]
            return self.add("Attention", inputs, output, num_heads=self.config["n_heads"])
        heads = self.config["n_heads"]
        width = self.config["dim"] // heads
        split = self.constant("split", np.array([0, 0, heads, width], np.int64))
        joined = self.constant("joined", np.array([0, 0, heads * width], np.int64))
        query, key, value = (
            self.add("Transpose", [self.add("Reshape", [self.linear(x, name, f"{output}/{part}"), split], f"{output}/{part}/split")],
                     f"{output}/{part}/heads", perm=order)
            for name, part, order in zip(names, "qkv", ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        )
        scaled = self.add("Mul", [query, self.constant("scale", np.float32(width**-0.5))], f"{output}/scaled")
        scores = self.add("Add", [self.add("MatMul", [scaled, key], f"{output}/scores"), "hidden"], f"{output}/masked")
        mixed = self.add("MatMul", [self.add("Softmax", [scores], f"{output}/shares", axis=-1), value], f"{output}/mixed")
        return self.add("Reshape", [self.add("Transpose", [mixed], f"{output}/rows", perm=[0, 2, 1, 3]), joined], output)

    def build(self):
        embeddings = "distilbert.embeddings"
        if self.fused:
            # Padding stands at the end, so a length for each sequence says it all.
            mask = self.add("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
            self.add("ReduceSum", [mask, self.constant("last", np.array([1], np.int64))], "lengths", keepdims=0)
        else:
            mask = self.add("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
            wide = self.add("Unsqueeze", [mask, self.constant("head_axes", np.array([1, 2], np.int64))], "mask/wide")
            absent = self.add("Sub", [self.constant("one", np.float32(1)), wide], "absent")
            self.add("Mul", [absent, self.constant("far", np.float32(HIDDEN))], "hidden")
        words = self.add("Gather", [self.weight(f"{embeddings}.word_embeddings.weight"), "input_ids"], "words")
        length = self.add("Gather", [self.add("Shape", ["input_ids"], "shape"), self.constant("second", np.array([1], np.int64))], "length")
        ranges = [self.constant("zero", np.array([0], np.int64)), length]
        places = self.add("Slice", [self.weight(f"{embeddings}.position_embeddings.weight"), *ranges], "places")
        x = self.layer_norm(self.add("Add", [words, places], "embedded"), f"{embeddings}.LayerNorm", "x0")
        for index in range(self.config["n_layers"]):
            layer = f"distilbert.transformer.layer.{index}"
            mixed = self.attention(x, layer, f"attention{index}")
            mixed = self.linear(mixed, f"{layer}.attention.out_lin", f"mixed{index}")
            x = self.residual_norm(mixed, x, f"{layer}.sa_layer_norm", f"y{index}")
            hidden = self.gelu(x, f"{layer}.ffn.lin1", f"hidden{index}")
            hidden = self.linear(hidden, f"{layer}.ffn.lin2", f"out{index}")
            x = self.residual_norm(hidden, x, f"{layer}.output_layer_norm", f"x{index + 1}")
        self.linear(x, "classifier", "logits")
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in ("input_ids", "attention_mask")]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", 3])
        graph = helper.make_graph(self.nodes, "chemtag", inputs, [output], list(self.initializers.values()))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def padded(sequences):
    width = max(map(len, sequences))
    ids, mask = np.zeros((2, len(sequences), width), np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def emissions(path, sequences):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run(None, padded(sequences))[0]
    return np.concatenate([logits[row, : len(sequence)] for row, sequence in enumerate(sequences)])


def word_stream(tokenizer, path):
    """Endless (word, its pieces); words of ASCII alone, which every engine cuts alike."""
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    words = [word for text in texts for word in text.split() if word.isascii()]
    pieces = [encoding.ids for encoding in tokenizer.encode_batch(words, add_special_tokens=False)]
    while True:
        yield from zip(words, pieces)


def sequence_of(stream, length):
    """The next words that make exactly `length` pieces; one that is too long is passed over."""
    words, ids = [], []
    while len(ids) < length:
        word, pieces = next(stream)
        if len(ids) + len(pieces) <= length:
            words.append(word)
            ids += pieces
    return {"ids": ids, "text": " ".join(words)}


def sorted_batches(sequences):
    batches, current = [], []
    for sequence in sorted(sequences, key=lambda s: len(s["ids"])):
        if (len(current) + 1) * len(sequence["ids"]) > MAX_PADDED:
            batches.append(current)
            current = []
        current.append(sequence)
    return batches + [current]


def workloads(tokenizer, text):
    stream = word_stream(tokenizer, text)
    sequences = [sequence_of(stream, length) for length in json.loads(LENGTHS.read_text())["lengths"][:SENTENCES]]
    batches = {
        "A32": [[sequence_of(stream, 32)]],
        "A256": [[sequence_of(stream, 256)]],
        "B-sorted": sorted_batches(sequences),
        "B-unsorted": [sequences[i : i + UNSORTED] for i in range(0, len(sequences), UNSORTED)],
    }
    for sequence in sequences:
        assert tokenizer.encode(sequence["text"], add_special_tokens=False).ids == sequence["ids"], sequence["text"]
    return {
        name: [{"ids": [s["ids"] for s in batch], "texts": [s["text"] for s in batch]} for batch in batches]
        for name, batches in batches.items()
    }


def hugging_face_folder(model_folder, config, quantised):
    folder = OUT / "models" / "chemtag-small"
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    shutil.move(quantised, folder / "onnx" / "model_quantized.onnx")
    shutil.copy(model_folder / "tokenizer.json", folder)
    config = {key: value for key, value in config.items() if key != "chemtag"}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config["max_position_embeddings"]}
    tokens = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | tokens))


def main(model_folder=ROOT / "models" / "chemtag-small", text=ROOT / "tests" / "general_text.jsonl"):
    model_folder, text = pathlib.Path(model_folder), pathlib.Path(text)
    OUT.mkdir(exist_ok=True)
    config = json.loads((model_folder / "config.json").read_text())
    weights = load_file(model_folder / "model.safetensors")
    made = workloads(Tokenizer.from_file(str(model_folder / "tokenizer.json")), text)
    (OUT / "workloads.json").write_text(json.dumps(made))
    sample = made["B-unsorted"][0]["ids"]
    expected = None
    for name, fused in (("plain", False), ("fused", True)):
        model = Graph(config, weights, fused).build()
        if not fused:
            onnx.checker.check_model(model)
        onnx.save(model, OUT / f"{name}.onnx")
        found = emissions(OUT / f"{name}.onnx", sample)
        expected = found if expected is None else expected
        assert np.abs(found - expected).max() < 1e-3, f"{name}: {np.abs(found - expected).max()}"
        quantize_dynamic(OUT / f"{name}.onnx", OUT / f"{name}.int8.onnx", per_channel=True, weight_type=QuantType.QInt8,
                         extra_options={"DefaultTensorType": TensorProto.FLOAT})
        agree = (emissions(OUT / f"{name}.int8.onnx", sample).argmax(-1) == expected.argmax(-1)).mean()
        print(f"{name}.int8.onnx: {agree:.1%} of the labels are those of 32-bit floats")
        (OUT / f"{name}.onnx").unlink()
    hugging_face_folder(model_folder, config, OUT / "plain.int8.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])
