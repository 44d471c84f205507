/**
 * chemtag beside other engines in Chromium: all loaded, each in a page of its own, and timed by turns, so that they share the machine's moods. Prints medians, their spread and ratios.
 *
 *     (cd www && npm ci && npm run build) && cd benches/browser && npm ci --ignore-scripts
 *     python prepare.py                                          # what it needs: requirements.txt
 *     node bench.mjs [--rounds 5] [--only REGEX] [--json] [--cpu] [--workloads A32,A256]    # CHROMIUM names the browser
 *
 * chemtag is timed from text to entities, with its tokenizer, decoding and JavaScript objects; onnxruntime-web from word pieces to emissions alone, which is less; transformers.js
 * from text to labels of word pieces. A32 and A256 are one sequence of so many pieces; B-sorted and B-unsorted are sentences, sorted by length and batched by padded size, or as they
 * come, 16 to a batch. With --cpu they are timed in processor time instead (Linux), which a busy machine disturbs less; several threads then add up. A pool gets all of them in one call. Loads are from navigation to the first output, everything from a server on this machine.
 */

import { existsSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

import { serve } from "../../www/demo/serve.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const { values: options } = parseArgs({
  options: { rounds: { type: "string", default: "5" }, only: { type: "string", default: "." }, json: { type: "boolean", default: false },
    cpu: { type: "boolean", default: false }, workloads: { type: "string", default: "A32,A256,B-sorted,B-unsorted" } },
});
const rounds = Number(options.rounds);

for (const [file, command] of [["www/dist/index.js", "npm run build in www"], ["benches/browser/out/workloads.json", "prepare.py"]]) {
  if (!existsSync(join(root, file))) throw new Error(`${file} is missing: run ${command} first`);
}
const workloads = JSON.parse(readFileSync(join(here, "out", "workloads.json"), "utf8"));
const pieces = (name) => workloads[name].flatMap(({ ids }) => ids).reduce((sum, ids) => sum + ids.length, 0);

const ENGINES = [
  ["chemtag", 1],
  ["onnxruntime-web int8", 1],
  ["transformers.js q8", 1],
  ["chemtag pool", 2],
  ["onnxruntime-web int8", 2],
  ["transformers.js q8", 2],
].map(([engine, threads]) => ({ engine, threads, label: `${engine}, ${threads} thread${threads > 1 ? "s" : ""}` }))
  .filter(({ label }) => new RegExp(options.only).test(label));
/** Least passes and seconds of a workload in each round. */
const ALL_PASSES = { A32: [15, 0.5], A256: [3, 0.5], "B-sorted": [1, 0], "B-unsorted": [1, 0] };

const PASSES = Object.fromEntries(options.workloads.split(",").map((name) => [name, ALL_PASSES[name]]));

const isolation = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
/** The other engines need more than our own policy allows, and threads need isolation; ours runs without it. */
const policy = { "content-security-policy": "default-src * blob: data: 'unsafe-inline' 'unsafe-eval'" };
const servers = [await serve(root, { headers: policy }), await serve(root, { headers: { ...policy, ...isolation } })];
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"],
});

function address({ engine, threads }, more = {}) {
  const server = servers[!engine.startsWith("chemtag") && threads > 1 ? 1 : 0];
  return `http://127.0.0.1:${server.address().port}/benches/browser/page.html?${new URLSearchParams({ engine, threads, ...more })}`;
}

async function open(context, address) {
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(`${address}: ${error}`));
  await page.goto(address);
  return [page, await page.evaluate(() => first)];
}

/** Milliseconds of processor time that all pages' processes have used, by the kernel's clock of 100 ticks a second. */
async function processorTime() {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  const renderers = processInfo.filter(({ type }) => type === "renderer");
  return renderers.reduce((sum, { id }) => {
    const [user, system] = readFileSync(`/proc/${id}/stat`, "utf8").split(") ")[1].split(" ").slice(11, 13);
    return sum + 10 * (Number(user) + Number(system));
  }, 0);
}

/** Milliseconds of a pass, on the wall's clock or the processor's. */
async function timed(page, name) {
  const before = options.cpu ? await processorTime() : 0;
  const [milliseconds, passes] = await page.evaluate(([name, passes]) => time(name, ...passes), [name, PASSES[name]]);
  return options.cpu ? ((await processorTime()) - before) / passes : milliseconds;
}

const measured = new Map();
function note(label, what, value) {
  const key = JSON.stringify([label, what]);
  measured.set(key, [...(measured.get(key) ?? []), value]);
}
const sorted = (values) => values.toSorted((a, b) => a - b);
const median = (values) => (sorted(values)[(values.length - 1) >> 1] + sorted(values)[values.length >> 1]) / 2;
const of = (label, what) => measured.get(JSON.stringify([label, what]));

try {
  // Pages that only load: cold with an empty profile, warm on the second visit of the same one.
  const first = JSON.stringify(workloads.A32[0]);
  for (let round = 0; round < rounds; round++) {
    for (const one of ENGINES) {
      const context = await browser.newContext();
      for (const what of ["load, cold", "load, warm"]) {
        const [page, milliseconds] = await open(context, address(one, { first }));
        note(one.label, what, milliseconds);
        // The cache is written after the first output.
        await page.waitForTimeout(300);
        await page.close();
      }
      await context.close();
    }
  }
  const pages = [];
  for (const one of ENGINES) pages.push((await open(await browser.newContext(), address(one)))[0]);
  // Until the browser's optimising compiler has replaced its quick code.
  for (const page of pages) for (const name of ["A32", "A256"]) await page.evaluate(([name]) => time(name, 2, 1.5), [name]);
  for (let round = 0; round < rounds; round++) {
    for (const name of Object.keys(PASSES)) {
      for (let turn = 0; turn < pages.length; turn++) {
        const place = (turn + round) % pages.length;
        // Threads of others may spin for a moment after their last work.
        await pages[place].waitForTimeout(200);
        note(ENGINES[place].label, name, await timed(pages[place], name));
      }
      console.error(`round ${round + 1} of ${rounds}: ${name}`);
    }
  }
} finally {
  await browser.close();
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
}

const whats = ["load, cold", "load, warm", ...Object.keys(PASSES)];
const isSpeed = (what) => what.startsWith("B");
/** Sentences in pieces a second, all else in milliseconds. */
const figure = (what, milliseconds) => (isSpeed(what) ? (1000 * pieces(what)) / milliseconds : milliseconds);
const shown = (what, value) => (isSpeed(what) ? String(Math.round(value)) : value.toFixed(1));
if (options.json) {
  for (const [key, values] of measured) {
    const [label, what] = JSON.parse(key);
    console.log(JSON.stringify({ engine: label, workload: what, unit: isSpeed(what) ? "pieces/s" : "ms", values: values.map((value) => figure(what, value)) }));
  }
}
console.log(`${cpus()[0].model}, ${cpus().length} cores, Chromium ${browser.version()}, ${rounds} rounds; ${options.cpu ? "processor time, but for loads; " : ""}ms, sentences in word pieces a second; median (lowest to highest)\n`);
console.log(`| engine | ${whats.join(" | ")} |\n|---|${whats.map(() => "---|").join("")}`);
for (const { label } of ENGINES) {
  const cells = whats.map((what) => {
    const values = sorted(of(label, what).map((value) => figure(what, value)));
    return `${shown(what, median(values))} (${shown(what, values[0])} to ${shown(what, values.at(-1))})`;
  });
  console.log(`| ${label} | ${cells.join(" | ")} |`);
}
console.log(`\nTimes as fast as the other on as many threads (above 1: chemtag is faster)\n\n| | ${whats.join(" | ")} |\n|---|${whats.map(() => "---|").join("")}`);
for (const ours of ENGINES.filter(({ engine }) => engine.startsWith("chemtag"))) {
  for (const other of ENGINES.filter(({ engine, threads }) => !engine.startsWith("chemtag") && threads === ours.threads)) {
    const ratios = whats.map((what) => (median(of(other.label, what)) / median(of(ours.label, what))).toFixed(2));
    console.log(`| ${ours.label} against ${other.engine} | ${ratios.join(" | ")} |`);
  }
}
