/**
 * Scores of the package beside the native engine's, bit by bit: in Node with both builds, in Chromium, and in Firefox if it is there.
 *
 *     cargo build --workspace --example score_bits    # and `npm run build` in www
 *     node bits.mjs [TEXTS.jsonl]                     # a key `text` on each line; CHROMIUM and FIREFOX name browsers
 *
 * Without a file: 2,000 sentences whose words are drawn from those of tests/general_text.jsonl. Ends with an error if any entity, place, class or score differs.
 */

import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { serve } from "../../www/demo/serve.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const model = join(root, "www", "dist", "model", "chemtag-small.int8.safetensors");
const scratch = mkdtempSync(join(tmpdir(), "chemtag-bits-"));
const SENTENCES = 2000;
/** Milliseconds that a browser may take. */
const PATIENCE = 600_000;

/** Words of real sentences in another order (a linear congruential generator): many scores far from 0 and 1. */
function drawn() {
  const words = readFileSync(join(root, "tests/general_text.jsonl"), "utf8").trim().split("\n").flatMap((line) => JSON.parse(line).text.split(" "));
  let state = 1;
  const next = (below) => ((state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) >>> 8) % below;
  return Array.from({ length: SENTENCES }, () => Array.from({ length: 4 + next(40) }, () => words[next(words.length)]).join(" "));
}

const file = process.argv[2] ?? join(scratch, "drawn.jsonl");
if (!process.argv[2]) writeFileSync(file, drawn().map((text) => `${JSON.stringify({ text })}\n`).join(""));
const texts = readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line).text);
const most = { encoding: "utf8", maxBuffer: 1 << 30 };
const expected = execFileSync(join(target, "debug", "examples", "score_bits"), [model, file], most).trim().split("\n");

/** Run in each of the engines: what is found in the texts, as the native program writes it. */
const TAG = `(tagger, texts) => {
  const bits = (score) => new Uint32Array(new Float32Array([score]).buffer)[0];
  return texts.map((text) => JSON.stringify(tagger.tag(text).map((e) => [e.start, e.end, e.class, bits(e.score)])));
}`;

function compare(name, { engine, found }) {
  const wrong = expected.findIndex((line, index) => line !== found[index]);
  if (wrong >= 0) throw new Error(`${name} (${engine}), text ${wrong}: expected ${expected[wrong]}, found ${found[wrong]}`);
  const entities = expected.reduce((sum, line) => sum + JSON.parse(line).length, 0);
  console.log(`${name} (${engine}): ${texts.length} texts, ${entities} entities, every bit the same`);
}

function inNode(build, flags) {
  const script = `
    import { readFileSync } from "node:fs";
    import { instantiate, moduleUrl } from "${join(root, "www/dist/engine.js")}";
    const [build, model, file] = process.argv.slice(1);
    const engine = await instantiate({ build, module: await WebAssembly.compile(readFileSync(moduleUrl(build))) });
    const tagger = await engine.Tagger.load(readFileSync(model));
    const texts = readFileSync(file, "utf8").trim().split("\\n").map((line) => JSON.parse(line).text);
    process.stdout.write(JSON.stringify({ engine: tagger.info().engine, found: (${TAG})(tagger, texts) }));`;
  return JSON.parse(execFileSync(process.execPath, [...flags, "--input-type=module", "-e", script, build, model, file], most));
}

/** A browser opens a page that tags and sends back what it found. */
async function inBrowser(command, args) {
  let answer;
  const answered = new Promise((resolve, reject) => (answer = { resolve, reject }));
  const server = await serve(join(root, "www", "site"), {
    intercept(request, response) {
      if (request.url === "/texts.json") response.end(JSON.stringify(texts));
      else if (request.url === "/bits.html") response.setHeader("content-type", "text/html").end('<!doctype html><script type="module" src="bits.js"></script>');
      else if (request.url === "/bits.js") {
        response.setHeader("content-type", "text/javascript").end(`
          const send = (value) => fetch("/found", { method: "POST", body: JSON.stringify(value) });
          try {
            const [{ instantiate }, { model }] = await Promise.all([import("/chemtag/engine.js"), import("/chemtag/model.js")]);
            const texts = await (await fetch("/texts.json")).json();
            const tagger = await (await instantiate()).Tagger.load(model.url.href);
            await send({ engine: tagger.info().engine, found: (${TAG})(tagger, texts) });
          } catch (error) {
            await send({ error: String(error) });
          }`);
      } else if (request.url === "/found") {
        const parts = [];
        request.on("data", (part) => parts.push(part));
        request.on("end", () => {
          const value = JSON.parse(Buffer.concat(parts).toString());
          response.end();
          value.error ? answer.reject(new Error(value.error)) : answer.resolve(value);
        });
      } else return false;
      return true;
    },
  });
  const browser = spawn(command, [...args, `http://127.0.0.1:${server.address().port}/bits.html`], { stdio: "ignore" });
  const timer = setTimeout(() => answer.reject(new Error(`${command} does not answer`)), PATIENCE);
  browser.on("error", answer.reject);
  try {
    return await answered;
  } finally {
    clearTimeout(timer);
    const ended = new Promise((resolve) => browser.once("exit", resolve));
    if (browser.kill()) await ended;
    server.closeAllConnections();
    server.close();
  }
}

try {
  compare("Node", inNode("simd128", []));
  // Node 20 has relaxed SIMD behind a flag, and computes its dot product wrongly on some CPUs, where the package does not use it.
  const isOld = Number(process.versions.node.split(".")[0]) < 22;
  try {
    compare("Node", inNode("relaxed-simd", isOld ? ["--experimental-wasm-relaxed-simd"] : []));
  } catch (error) {
    if (!isOld) throw error;
    console.log(`Node ${process.versions.node} with a flag: relaxed SIMD is wrong here, and not chosen (${error.message.slice(0, 60)} ...)`);
  }
  const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const chromiumFlags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
  compare("Chromium", await inBrowser(chromium, [...chromiumFlags, `--user-data-dir=${join(scratch, "chromium")}`]));
  const firefox = process.env.FIREFOX ?? "/usr/bin/firefox-esr";
  if (existsSync(firefox)) compare("Firefox", await inBrowser(firefox, ["--headless", "--no-remote", "--profile", mkdtempSync(join(scratch, "firefox-"))]));
  else console.log(`no Firefox at ${firefox}`);
} finally {
  rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
}
