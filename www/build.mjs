/**
 * The library, the default model and src/*.ts -> dist/, which is what the npm package holds. Needs rustup's cargo and Node.
 *
 *     npm ci && npm run build
 */

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const www = dirname(fileURLToPath(import.meta.url));
const root = dirname(www);
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const work = join(target, "www");
const dist = join(www, "dist");
const modelFile = "chemtag-small.int8.safetensors";

/** What the page fetches of code, compressed, stays below. */
const MOST_CODE_BYTES = 700 * 1024;

function run(command, args, environment = {}) {
  execFileSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...environment } });
}

/** Both modules. Dependencies are compiled once, for plain SIMD; the crate itself, which has the kernels, twice. */
function buildModules() {
  const targets = execFileSync("rustup", ["target", "list", "--installed"], { cwd: root, encoding: "utf8" });
  if (!targets.includes("wasm32-unknown-unknown")) run("rustup", ["target", "add", "wasm32-unknown-unknown"]);
  run("cargo", ["build", "--locked", "-p", "chemtag-bindgen"]);
  const bindgen = join(target, "debug", "chemtag-bindgen");
  const module = join(target, "wasm32-unknown-unknown", "wasm", "chemtag.wasm");
  const crate = ["rustc", "--locked", "--lib", "--crate-type", "cdylib", "--target", "wasm32-unknown-unknown"];
  const settings = ["--no-default-features", "--features", "wasm", "--profile", "wasm"];
  const environment = { RUSTFLAGS: "-C target-feature=+simd128" };
  for (const [build, flags] of [["simd128", []], ["relaxed-simd", ["--", "-C", "target-feature=+relaxed-simd"]]]) {
    run("cargo", [...crate, ...settings, ...flags], environment);
    run(bindgen, [module, join(work, "wasm", build), "chemtag"]);
    const bytes = gzipSync(readFileSync(join(work, "wasm", build, "chemtag_bg.wasm")), { level: 9 }).length;
    console.log(`${build}: ${Math.round(bytes / 1024)} KiB compressed`);
    if (bytes > MOST_CODE_BYTES) {
      throw new Error(`${build} has ${bytes} bytes compressed, but at most ${MOST_CODE_BYTES} are wanted: see what grew`);
    }
  }
}

/** The default model, whose hash the package is to know. */
function copyModel() {
  const model = readFileSync(join(root, "models", modelFile));
  const sha256 = createHash("sha256").update(model).digest("hex");
  if (!readFileSync(join(root, "models", `${modelFile}.sha256`), "utf8").startsWith(sha256)) {
    throw new Error(`models/${modelFile} has the SHA-256 ${sha256}, but the file beside it says another one: get both again`);
  }
  mkdirSync(join(dist, "model"), { recursive: true });
  writeFileSync(join(dist, "model", modelFile), model);
  writeFileSync(
    join(www, "src", "model.ts"),
    `/** The package's own model. Written by build.mjs. */

export const model = {
  url: new URL("./model/${modelFile}", import.meta.url),
  sha256: "${sha256}",
  bytes: ${model.length},
};
`,
  );
}

/** The list of the demo's files, which its service worker keeps; a change of any file is a new version. The model is kept by the package itself. */
function writeVersion(site) {
  const files = readdirSync(site, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/\.safetensors$|service-worker\.js$/.test(entry.name))
    .map((entry) => relative(site, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .sort();
  const hash = createHash("sha256");
  for (const file of files) hash.update(file).update(readFileSync(join(site, file)));
  const version = hash.digest("hex").slice(0, 16);
  const worker = join(site, "service-worker.js");
  const list = `const VERSION = "${version}";\nconst FILES = ${JSON.stringify(["./", ...files])};\n\n`;
  writeFileSync(worker, list + readFileSync(worker, "utf8"));
}

rmSync(dist, { recursive: true, force: true });
mkdirSync(work, { recursive: true });
buildModules();
copyModel();
for (const folder of [join(www, "src", "wasm"), join(dist, "wasm")]) {
  rmSync(folder, { recursive: true, force: true });
  cpSync(join(work, "wasm"), folder, { recursive: true });
}
if (!existsSync(join(www, "node_modules"))) throw new Error("www/node_modules is missing: run `npm ci` in www first");
run(process.execPath, [join(www, "node_modules", "typescript", "bin", "tsc"), "-p", www]);
const site = join(www, "site");
rmSync(site, { recursive: true, force: true });
cpSync(join(www, "demo"), site, { recursive: true, filter: (path) => !path.endsWith(".mjs") });
cpSync(dist, join(site, "chemtag"), { recursive: true, filter: (path) => !/\.d\.ts$|node\.js$/.test(path) });
writeVersion(site);
console.log(`dist/model/${modelFile}: ${statSync(join(dist, "model", modelFile)).size} bytes`);
