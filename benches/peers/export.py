"""A model folder -> the same network for the other programs, with the head that gives three emissions for each word piece.

    export.py MODEL OUT

float-plain.onnx       as PyTorch writes it: for OpenVINO
float-fused.onnx       with ONNX Runtime's fused attention, LayerNorm and GELU
int8-*.onnx            both in dynamic 8 bits, a scale for each output channel, with and without reduce_range (7-bit weights, which AVX2 cannot saturate)
int8.onnx              the fastest of them in ONNX Runtime on one thread of this machine
distilbert/            a folder of Hugging Face's: for PyTorch, which quantises it while it is loaded

Prints how fast each is, and how far its emissions are from PyTorch's in floats.
"""

import pathlib
import shutil
import sys
import time

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from transformers import DistilBertForTokenClassification

INPUTS = ["input_ids", "attention_mask"]


class Emissions(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def export_plain(model, path):
    ids = torch.randint(5, model.config.vocab_size, (2, 12))
    axes = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        Emissions(model).eval(), (ids, torch.ones_like(ids)), path, dynamo=False, opset_version=17, input_names=INPUTS,
        output_names=["logits"], dynamic_axes={name: axes for name in [*INPUTS, "logits"]})


def export_fused(config, plain, path):
    fused = optimizer.optimize_model(
        str(plain), "bert", num_heads=config.n_heads, hidden_size=config.dim, optimization_options=FusionOptions("bert"))
    fused.save_model_to_file(str(path))
    print("fused:", {name: count for name, count in fused.get_fused_operator_statistics().items() if count})


def quantise(path, to, reduce_range):
    quantize_dynamic(
        path, to, per_channel=True, weight_type=QuantType.QInt8, reduce_range=reduce_range,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})


def milliseconds(path, model):
    """Best time of 32 pieces times that of 256, in ms squared."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    best = []
    for length in (32, 256):
        ids = np.random.default_rng(1).integers(5, model.config.vocab_size, (1, length))
        feeds, times = dict(zip(INPUTS, (ids, np.ones_like(ids)))), []
        for _ in range(20):
            start = time.perf_counter()
            logits = session.run(None, feeds)[0]
            times.append((time.perf_counter() - start) * 1e3)
        best.append(min(times))
    with torch.inference_mode():
        error = np.abs(logits - model(torch.from_numpy(ids)).logits.numpy()).max()
    print(f"{path.name:26} 32 pieces {best[0]:5.1f} ms, 256 pieces {best[1]:5.1f} ms; emissions differ by {error:.3f} at most")
    return best[0] * best[1]


def main(folder, out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model = DistilBertForTokenClassification.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    plain, fused = out / "float-plain.onnx", out / "float-fused.onnx"
    export_plain(model, plain)
    export_fused(model.config, plain, fused)
    in_bytes = []
    for source in (plain, fused):
        for name, reduce_range in (("", False), ("-reduced", True)):
            in_bytes.append(out / f"{source.stem.replace('float', 'int8')}{name}.onnx")
            quantise(source, in_bytes[-1], reduce_range)
    times = {path: milliseconds(path, model) for path in in_bytes}
    fastest = min(times, key=times.get)
    print("ONNX Runtime runs", fastest.name)
    shutil.copy(fastest, out / "int8.onnx")
    model.save_pretrained(out / "distilbert")


if __name__ == "__main__":
    main(*sys.argv[1:])
