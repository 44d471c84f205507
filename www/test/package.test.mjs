/** The package as users get it: packed, installed into a project of its own, run by Node, by a bundler, and on a plain page. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";
import { build } from "vite";

import { serve } from "../demo/serve.mjs";

const www = fileURLToPath(new URL("../", import.meta.url));
const app = mkdtempSync(join(tmpdir(), "chemtag-package-"));
const npm = (...args) => execFileSync("npm", args, { cwd: app, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
let packed;

const PAGE = (script) => `<!doctype html><title>-</title><script type="module" src="${script}"></script>`;
const MAIN = (from) => `import { createTagger } from "${from}";
const [entity] = await createTagger({ workers: 2 }).tag("Acetone was added.");
document.title = entity.text;`;

before(() => {
  [packed] = JSON.parse(npm("pack", www, "--json", "--pack-destination", app));
  writeFileSync(join(app, "package.json"), '{ "name": "app", "private": true, "type": "module" }\n');
  npm("install", "--offline", "--no-audit", "--no-fund", `./${packed.filename}`);
});
after(() => rmSync(app, { recursive: true, force: true }));

/** The title that a page of this folder gives itself, under the strict policy. */
async function titleOf(folder, path) {
  const server = await serve(folder);
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"] });
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/${path}`);
    await page.waitForFunction(() => document.title !== "-");
    return await page.title();
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
}

test("it holds what runs, its types and licences, and nothing else", () => {
  const files = packed.files.map(({ path }) => path);
  const allowed = /^(dist\/.*\.(js|d\.ts|wasm|safetensors)|README\.md|LICENSE-(MIT|APACHE)|package\.json)$/;
  assert.deepEqual(files.filter((path) => !allowed.test(path)), []);
  for (const path of ["dist/index.js", "dist/node.js", "dist/index.d.ts", "LICENSE-MIT", "LICENSE-APACHE"]) assert.ok(files.includes(path), path);
  assert.equal(files.filter((path) => path.endsWith("_bg.wasm")).length, 2);
});

test("Node", () => {
  writeFileSync(
    join(app, "main.js"),
    'import { createTagger } from "chemtag";\nconsole.log((await createTagger().tag("Acetone was added."))[0].text);\n',
  );
  assert.equal(execFileSync(process.execPath, ["main.js"], { cwd: app, encoding: "utf8" }), "Acetone\n");
});

test("a plain page", async () => {
  writeFileSync(join(app, "plain.html"), PAGE("plain.js"));
  writeFileSync(join(app, "plain.js"), MAIN("./node_modules/chemtag/dist/index.js"));
  assert.equal(await titleOf(app, "plain.html"), "Acetone");
});

test("Vite", async () => {
  const source = join(app, "vite");
  mkdirSync(source);
  writeFileSync(join(source, "index.html"), PAGE("/main.js"));
  writeFileSync(join(source, "main.js"), MAIN("chemtag"));
  await build({ root: source, configFile: false, logLevel: "error", build: { target: "es2022" } });
  assert.ok(existsSync(join(source, "dist", "index.html")));
  assert.equal(await titleOf(join(source, "dist"), ""), "Acetone");
});
