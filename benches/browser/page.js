/**
 * One engine in one page, `?engine=NAME&threads=N`: loads it, then times workloads when bench.mjs asks. `window.first` is a promise of the milliseconds from navigation to the
 * first output, `window.time(workload, least, seconds)` one of the median milliseconds of a pass over a workload's batches and the number of passes.
 */

const MODULES = "/benches/browser/node_modules";
const OUT = "/benches/browser/out";

const query = new URLSearchParams(location.search);
const threads = Number(query.get("threads"));
if (threads > 1 && !query.get("engine").startsWith("chemtag") && !crossOriginIsolated) throw new Error("threads need cross-origin isolation");

/** chemtag in this thread, from text to entities: a batch is its texts, each of them one sequence. */
async function chemtag() {
  const { instantiate } = await import("/www/dist/engine.js");
  const { model } = await import("/www/dist/model.js");
  const engine = await instantiate();
  const tagger = await engine.Tagger.load(model.url.href, { sha256: model.sha256 });
  return { prepare: ({ texts }) => texts, run: (texts) => tagger.tagBatch(texts) };
}

/** The package as pages use it: workers, from text to entities. */
async function chemtagPool() {
  const { createTagger } = await import("/www/dist/index.js");
  const tagger = createTagger({ workers: threads });
  return { prepare: ({ texts }) => texts, run: (texts) => tagger.tagBatch(texts), whole: true };
}

/** onnxruntime-web, from word pieces to emissions: a batch is a pair of padded tensors. */
async function onnxruntime() {
  const ort = await import(`${MODULES}/onnxruntime-web/dist/ort.wasm.min.mjs`);
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(`${OUT}/fused.int8.onnx`, { executionProviders: ["wasm"] });
  const prepare = ({ ids }) => {
    const width = Math.max(...ids.map((sequence) => sequence.length));
    const [input, mask] = [0, 0].map(() => new BigInt64Array(ids.length * width));
    for (const [row, sequence] of ids.entries()) {
      for (const [column, id] of sequence.entries()) {
        input[row * width + column] = BigInt(id);
        mask[row * width + column] = 1n;
      }
    }
    const tensor = (values) => new ort.Tensor("int64", values, [ids.length, width]);
    return { input_ids: tensor(input), attention_mask: tensor(mask) };
  };
  return { prepare, run: async (feeds) => (await session.run(feeds)).logits.data };
}

/** transformers.js, from text to labels of word pieces: a batch is its texts. */
async function transformers() {
  const { env, pipeline } = await import(`${MODULES}/@huggingface/transformers/dist/transformers.min.js`);
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: `${OUT}/models/`, useBrowserCache: false, useWasmCache: false });
  const runtime = `${MODULES}/@huggingface/transformers/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify`;
  Object.assign(env.backends.onnx.wasm, { numThreads: threads, wasmPaths: { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` } });
  const tagger = await pipeline("token-classification", "chemtag-small", { dtype: "q8", device: "wasm" });
  const prepare = ({ ids, texts }) => {
    for (const [index, text] of texts.entries()) {
      const pieces = tagger.tokenizer.encode(text).length;
      if (pieces !== ids[index].length) throw new Error(`${pieces} pieces, not ${ids[index].length}: ${text}`);
    }
    return texts;
  };
  return { prepare, run: (texts) => tagger(texts) };
}

const ENGINES = { chemtag, "chemtag pool": chemtagPool, "onnxruntime-web int8": onnxruntime, "transformers.js q8": transformers };
const FIRST = query.get("first");

const loading = Promise.all([FIRST ? JSON.parse(FIRST) : fetch(`${OUT}/workloads.json`).then((answer) => answer.json()), ENGINES[query.get("engine")]()]);

window.first = loading.then(async ([workloads, { prepare, run }]) => {
  const [batch] = FIRST ? [workloads] : workloads.A32;
  await run(prepare(batch));
  return performance.now();
});

const prepared = new Map();

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

window.time = async (name, least, seconds) => {
  const [workloads, { prepare, run, whole }] = await loading;
  if (!prepared.has(name)) {
    // A pool of workers gets all texts at once and shares them out.
    const batches = workloads[name];
    prepared.set(name, (whole ? [{ texts: batches.flatMap(({ texts }) => texts) }] : batches).map(prepare));
  }
  const times = [];
  const begun = performance.now();
  while (times.length < least || performance.now() - begun < 1000 * seconds) {
    const started = performance.now();
    for (const batch of prepared.get(name)) await run(batch);
    times.push(performance.now() - started);
  }
  return [median(times), times.length];
};
