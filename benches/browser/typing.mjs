/**
 * Someone types, again and again: what the page, its worker and the worker's WebAssembly hold of memory after a tenth of the requests and at the end.
 *
 *     node typing.mjs [--requests 50000]      # after `npm run build` in www and `npm ci --ignore-scripts` here
 *
 * Each request is a longer beginning of a text, with the option `latest`; every tenth is not waited for, so that later ones take its place. Memory is the browser's own figure
 * (performance.measureUserAgentSpecificMemory, after a collection of garbage), which wants cross-origin isolation, and that of the renderer's process.
 */

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

import { serve } from "../../www/demo/serve.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const { values: options } = parseArgs({ options: { requests: { type: "string", default: "50000" } } });
const requests = Number(options.requests);
const texts = readFileSync(join(root, "tests/general_text.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line).text);

const headers = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
const intercept = (request, response) => {
  if (request.url !== "/blank.html") return false;
  response.writeHead(200, { ...headers, "content-type": "text/html" }).end("<!doctype html><title>typing</title>");
  return true;
};
const server = await serve(join(root, "www", "site"), { headers, intercept });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--enable-blink-features=ForceEagerMeasureMemory"],
});

/** Bytes that a process holds (Linux). */
function resident(pid) {
  return 1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

try {
  const session = await browser.newBrowserCDPSession();
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/blank.html`);
  await page.evaluate(async () => {
    const { createTagger } = await import("/chemtag/index.js");
    window.tagger = createTagger();
    await tagger.ready;
    window.superseded = 0;
    window.type = async (texts, from, to) => {
      for (let request = from; request < to; ) {
        const text = texts[request % texts.length];
        for (let end = 1; end <= text.length && request < to; end++, request++) {
          const answer = tagger.tag(text.slice(0, end), { latest: "typing" }).catch((error) => {
            if (error.code !== "superseded") throw error;
            window.superseded++;
          });
          if (request % 10 > 0) await answer;
        }
      }
    };
    window.memory = async () => {
      const { bytes, breakdown } = await performance.measureUserAgentSpecificMemory();
      const inWorker = breakdown.filter(({ attribution }) => attribution.some(({ scope }) => scope.includes("Worker")));
      return [bytes, inWorker.reduce((sum, part) => sum + part.bytes, 0)];
    };
  });
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const renderers = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => id);
  const megabytes = (bytes) => (bytes / 1e6).toFixed(2).padStart(8);
  console.log("requests  page and worker, MB  worker alone, MB  renderer's process, MB");
  const seen = [];
  const step = Math.ceil(requests / 10);
  for (let done = 0; done <= requests; done += step) {
    if (done > 0) await page.evaluate(([texts, from, to]) => type(texts, from, to), [texts, done - step, done]);
    const [all, worker] = await page.evaluate(() => memory());
    seen.push(all);
    console.log(`${String(done).padStart(8)}  ${megabytes(all)}  ${megabytes(worker)}  ${megabytes(Math.max(...renderers.map(resident)))}`);
  }
  console.log(`${await page.evaluate(() => superseded)} superseded; from a tenth to the end ${((seen.at(-1) - seen[1]) / 1e6).toFixed(2)} MB more`);
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
