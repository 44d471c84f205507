/** The package in Node: the same entities as the native engine to the last bit, offsets, cancellation, crashes, memory given back. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { syncBuiltinESMExports } from "node:module";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import threads from "node:worker_threads";

/** All workers that were started, so that a test can end one. */
const started = [];
threads.Worker = class extends threads.Worker {
  constructor(...args) {
    super(...args);
    started.push(this);
  }
};
syncBuiltinESMExports();

const { ChemtagError, createTagger } = await import("chemtag");
const { compile, instantiate } = await import("chemtag/engine");

const root = fileURLToPath(new URL("../../", import.meta.url));
const modelFile = fileURLToPath(import.meta.resolve("chemtag/model.int8.safetensors"));
const corpus = `${root}tests/general_text.jsonl`;
const sentences = readFileSync(corpus, "utf8").trim().split("\n").map((line) => JSON.parse(line).text);
const abstract = readFileSync(`${root}examples/abstract.txt`, "utf8");

/** Rejected with this code. */
const coded = (code) => (error) => error instanceof ChemtagError && error.code === code;

/** An `f32` in a JavaScript number -> its bits. */
const bits = (score) => new Uint32Array(new Float32Array([score]).buffer)[0];

/** What the native engine finds; `cargo test` or `cargo build --examples` makes the program. */
function native() {
  const target = process.env.CARGO_TARGET_DIR ?? `${root}target`;
  const lines = execFileSync(`${target}/debug/examples/score_bits`, [modelFile, corpus], { encoding: "utf8" });
  return lines.trim().split("\n").map((line) => JSON.parse(line));
}

const asBits = (found) => found.map((entities) => entities.map((e) => [e.start, e.end, e.class, bits(e.score)]));

let tagger;
before(() => void (tagger = createTagger()));
after(() => tagger.dispose());

test("entities are the native engine's, bit for bit, however texts are given", async () => {
  const expected = native();
  assert.ok(expected.flat().length > 40);
  assert.deepEqual(asBits(await tagger.tagBatch(sentences)), expected);
  assert.deepEqual(asBits(await Promise.all(sentences.map((text) => tagger.tag(text)))), expected);
});

test("both builds give the same bits", async () => {
  const script = `
    const { compile, instantiate, moduleUrl } = await import("chemtag/engine");
    const { readFileSync } = await import("node:fs");
    const build = process.argv[1] || undefined;
    const engine = await instantiate(build && { build, module: await WebAssembly.compile(readFileSync(moduleUrl(build))) });
    const tagger = await engine.Tagger.load(readFileSync(process.argv[2]));
    const texts = readFileSync(process.argv[3], "utf8").trim().split("\\n").map((line) => JSON.parse(line).text);
    console.log(JSON.stringify({ engine: tagger.info().engine, found: tagger.tagBatch(texts) }));`;
  const run = (flags, build) => {
    const args = [...flags, "--input-type=module", "-e", script, build, modelFile, corpus];
    return JSON.parse(execFileSync(process.execPath, args, { cwd: fileURLToPath(new URL(".", import.meta.url)), encoding: "utf8" }));
  };
  const expected = native();
  const plain = run([], "simd128");
  assert.equal(plain.engine, "int8, cpu, simd128");
  assert.deepEqual(asBits(plain.found), expected);
  // Node 20 knows relaxed SIMD behind a flag only, and computes its dot product wrongly on some CPUs: there the choice falls on the other build.
  const isOld = Number(process.versions.node.split(".")[0]) < 22;
  const best = run(isOld ? ["--experimental-wasm-relaxed-simd"] : [], "");
  if (!isOld) assert.equal(best.engine, "int8, cpu, relaxed-simd");
  assert.deepEqual(asBits(best.found), expected);
});

test("offsets are those of JavaScript's strings, whatever the text holds", async () => {
  const texts = [
    "🧪🧪 α-pinene\r\nand β-carotene in THF 🧪.",
    "e\u0301thanol \u{1F468}\u200D\u{1F52C} stirred benzene\u00a0in \ud800 toluene \udc00 over NaCl",
    "",
    " \r\n\t",
    `${"ΔG‡ of acetone, ".repeat(400)}\u{10FFFF} and aspirin`,
  ];
  const found = await tagger.tagBatch(texts);
  for (const [index, entities] of found.entries()) {
    let end = 0;
    for (const entity of entities) {
      assert.equal(texts[index].slice(entity.start, entity.end), entity.text);
      assert.ok(entity.start >= end && entity.score > 0 && entity.score <= 1);
      end = entity.end;
    }
  }
  const mentions = found.map((entities) => entities.map((entity) => entity.text));
  assert.ok(mentions[0].includes("β-carotene") && mentions[1].includes("toluene") && mentions[4].includes("aspirin"));
  assert.deepEqual(mentions.slice(2, 4), [[], []]);
});

test("a long text gives step by step what it gives at once", async () => {
  const long = `${abstract}\n\n`.repeat(6);
  const engine = await instantiate(await compile());
  const direct = await engine.Tagger.load(readFileSync(modelFile));
  const shares = [];
  const found = await tagger.tag(long, { onProgress: (done) => shares.push(done) });
  assert.deepEqual(found, direct.tag(long));
  assert.ok(shares.length > 4 && shares.every((share, i) => share >= (shares[i - 1] ?? 0)));
  assert.equal(shares.at(-1), 1);
  // More than one thread's share of text: what native code does in parallel.
  const many = Array.from({ length: 13 }, () => abstract);
  const once = direct.tag(abstract);
  assert.deepEqual(direct.tagBatch(many), many.map(() => once));
  direct.free();
});

test("a lower threshold finds more, a wrong one is refused", async () => {
  const [low, usual, high] = await Promise.all([{ threshold: 0.05 }, {}, { threshold: 0.99 }].map((o) => tagger.tag(abstract, o)));
  assert.ok(low.length >= usual.length && usual.length >= high.length && low.length > high.length);
  assert.ok(high.every((entity) => entity.score >= 0.99));
  await assert.rejects(tagger.tag("x", { threshold: 2 }), coded("bad-option"));
  await assert.rejects(tagger.tag("x", { threshold: "much" }), coded("bad-option"));
  await assert.rejects(tagger.tag(7), coded("bad-option"));
});

test("who types on and on does not fill the engine's memory", async () => {
  const engine = await instantiate(await compile());
  const direct = await engine.Tagger.load(readFileSync(modelFile));
  const typed = sentences.flatMap((text) => Array.from({ length: text.length }, (_, end) => text.slice(0, end + 1))).slice(0, 1500);
  const after = typed.map((text) => {
    direct.tag(text);
    return direct.info().memoryBytes;
  });
  assert.ok(after.at(-1) - after[after.length / 10] < 2e6, `${after[after.length / 10]} bytes after a tenth, ${after.at(-1)} at the end`);
  assert.ok(after.at(-1) < 90e6);
  direct.free();
});

test("requests are cancelled, and the latest wins", async () => {
  const long = `${abstract}\n\n`.repeat(40);
  const aborts = new AbortController();
  const cancelled = tagger.tag(long, { signal: aborts.signal, onProgress: () => aborts.abort() });
  await assert.rejects(cancelled, coded("aborted"));
  const typed = ["a", "ac", "acetone"].map((text) => tagger.tag(text, { latest: "typing" }));
  const [first, second, third] = await Promise.allSettled(typed);
  assert.deepEqual([first.reason.code, second.reason.code, third.value[0].text], ["superseded", "superseded", "acetone"]);
});

test("workers share a batch and give the same", async () => {
  const two = createTagger({ workers: 2 });
  const texts = [...sentences, ...sentences, ...sentences, ...sentences];
  assert.equal((await two.ready).workers, 2);
  assert.deepEqual(await two.tagBatch(texts), await tagger.tagBatch(texts));
  two.dispose();
  await assert.rejects(two.tag("x"), coded("disposed"));
  await assert.rejects(two.ready, coded("disposed"));
});

test("a worker that ends is replaced; what it had is rejected, what waits is answered", async () => {
  const fragile = createTagger();
  await fragile.ready;
  const long = `${abstract}\n\n`.repeat(40);
  const victim = started.at(-1);
  const lost = fragile.tag(long, { onProgress: () => void victim.terminate() });
  const waiting = fragile.tag("acetone");
  await assert.rejects(lost, coded("worker-crashed"));
  assert.equal((await waiting)[0].text, "acetone");
  assert.notEqual(started.at(-1), victim);
  fragile.dispose();
});

test("what is loaded is told", async () => {
  const info = await tagger.info();
  const file = readFileSync(modelFile);
  assert.deepEqual([info.bytes, info.sha256], [file.length, createHash("sha256").update(file).digest("hex")]);
  assert.ok(info.name === "chemtag-small" && info.classes.includes("FORMULA") && info.memoryBytes < 90e6, JSON.stringify(info));
  assert.equal((await (await tagger.ready).cached).stored, false);
});

test("a model folder becomes the same file as natively", async () => {
  const engine = await instantiate();
  const files = ["config.json", "tokenizer.json", "model.safetensors"].map((name) => readFileSync(`${root}models/chemtag-small/${name}`));
  assert.ok(readFileSync(modelFile).equals(engine.toInt8(...files)));
});

test("a download that breaks off goes on where it broke off; a damaged one is refused, and can be tried again", async (t) => {
  const file = readFileSync(modelFile);
  const asked = [];
  let damaged = false;
  const server = createServer((request, response) => {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    asked.push(from);
    const headers = { etag: '"1"', "content-length": file.length - from };
    if (from > 0) headers["content-range"] = `bytes ${from}-${file.length - 1}/${file.length}`;
    response.writeHead(from > 0 ? 206 : 200, headers);
    const body = Buffer.from(file.subarray(from));
    if (damaged) body[body.length - 1] ^= 1;
    if (asked.length === 1) response.write(body.subarray(0, 5_000_000), () => setTimeout(() => response.destroy(), 200));
    else response.end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const modelUrl = `http://127.0.0.1:${server.address().port}/model`;
  const sha256 = createHash("sha256").update(file).digest("hex");
  const progress = [];
  const remote = createTagger({ modelUrl, sha256, onProgress: (p) => progress.push(p) });
  assert.equal((await remote.ready).source, "network");
  assert.equal(asked.length, 2);
  assert.ok(asked[1] > 0 && asked[1] <= 5_000_000);
  assert.deepEqual(progress.at(-1), { loaded: file.length, total: file.length });
  assert.equal((await remote.tag("acetone"))[0].text, "acetone");
  remote.dispose();

  damaged = true;
  const wrong = createTagger({ modelUrl, sha256 });
  await assert.rejects(wrong.tag("acetone"), coded("hash-mismatch"));
  damaged = false;
  assert.equal((await wrong.tag("acetone"))[0].text, "acetone");
  wrong.dispose();

  const aborts = new AbortController();
  const stopped = createTagger({ modelUrl, sha256, signal: aborts.signal, onProgress: () => aborts.abort() });
  await assert.rejects(stopped.ready, coded("aborted"));
  stopped.dispose();
});

test("what is missing or no model is refused with its name", async () => {
  const missing = createTagger({ modelUrl: new URL("nowhere.safetensors", import.meta.url) });
  await assert.rejects(missing.ready, (error) => coded("network")(error) && error.message.includes("nowhere"));
  const other = createTagger({ modelUrl: import.meta.url });
  await assert.rejects(other.tag("x"), coded("model"));
  assert.throws(() => createTagger({ workers: 0 }), coded("bad-option"));
});

test("a process with an idle tagger ends", () => {
  const script = `const { createTagger } = await import("chemtag");
    console.log((await createTagger().tag("acetone"))[0].text);`;
  const options = { cwd: fileURLToPath(new URL(".", import.meta.url)), encoding: "utf8", timeout: 60_000 };
  assert.equal(execFileSync(process.execPath, ["--input-type=module", "-e", script], options).trim(), "acetone");
});
