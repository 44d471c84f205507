"""Times ONNX Runtime, PyTorch or OpenVINO on every workload; prints a JSON object for each figure.

    engines.py ENGINE FOLDER THREADS        (after run.sh has set up FOLDER)

Sentences are padded to the longest of their batch; only their own pieces are counted.
"""

import json
import pathlib
import statistics
import sys
import time

import numpy as np

LEAST_RUNS, SECONDS = 15, 2.0  # of a single sequence; sentences are read once a round, after one batch to warm up


def onnxruntime_int8(models, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(models / "int8.onnx", options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def pytorch_int8(models, threads):
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model = transformers.DistilBertForTokenClassification.from_pretrained(models / "distilbert", dtype=torch.float32).eval()
    model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    def run(ids, mask):
        with torch.inference_mode():
            return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    return run


def openvino_f32(models, threads):
    import openvino
    compiled = openvino.Core().compile_model(models / "float-plain.onnx", "CPU", {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    return lambda ids, mask: compiled({"input_ids": ids, "attention_mask": mask})[0]


ENGINES = {"onnxruntime-int8": onnxruntime_int8, "pytorch-int8": pytorch_int8, "openvino-f32": openvino_f32}


def padded(sequences):
    ids = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, :len(sequence)] = sequence
        mask[row, :len(sequence)] = 1
    return ids, mask


def seconds(run, batches):
    start = time.perf_counter()
    for ids, mask in batches:
        run(ids, mask)
    return time.perf_counter() - start


def main(engine, folder, threads):
    folder, threads = pathlib.Path(folder), int(threads)
    workloads = json.loads((folder / "workloads.json").read_text())
    run = ENGINES[engine](folder / "models", threads)

    for name, batches in workloads.items():
        batches = [padded(sequences) for sequences in batches]
        if name.startswith("A"):
            for _ in range(3):
                seconds(run, batches)
            times, start = [], time.perf_counter()
            while len(times) < LEAST_RUNS or time.perf_counter() - start < SECONDS:
                times.append(seconds(run, batches))
            value, unit = statistics.median(times) * 1e3, "ms"
        else:
            run(*batches[len(batches) // 2])
            value, unit = sum(int(mask.sum()) for _, mask in batches) / seconds(run, batches), "pieces/s"
        print(json.dumps({"engine": engine, "threads": threads, "workload": name, "value": value, "unit": unit}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
