/**
 * The WebAssembly module of this machine: chosen, compiled once, instantiated in whichever thread wants it. Two builds: relaxed SIMD where the
 * engine knows it, plain SIMD elsewhere; both give the same bits.
 */

import { ChemtagError } from "./errors.js";
import * as relaxed from "./wasm/relaxed-simd/chemtag.js";
import * as plain from "./wasm/simd128/chemtag.js";

/** Which of the two builds. */
export type Build = "simd128" | "relaxed-simd";

/** A compiled module, to be sent to any number of threads. */
export interface CompiledEngine {
  build: Build;
  module: WebAssembly.Module;
}

/** A module with one function, `f`, that gives back an `i32` by the instructions in `body`. */
function tinyModule(body: number[]): Uint8Array<ArrayBuffer> {
  const code = [0, ...body, 0x0b];
  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  const types = [1, 5, 1, 0x60, 0, 1, 0x7f];
  const functions = [3, 2, 1, 0];
  const exports = [7, 5, 1, 1, 0x66, 0, 0];
  return new Uint8Array([...header, ...types, ...functions, ...exports, 10, code.length + 2, 1, code.length, ...code]);
}

const vector = (bytes: number[]) => [0xfd, 0x0c, ...bytes.map((byte) => byte & 0xff)];
const filled = (four: number[]) => [...four, ...four, ...four, ...four];
/** `i32x4.extract_lane 0`. */
const FIRST_LANE = [0xfd, 0x1b, 0];
/** `i32x4.relaxed_dot_i8x16_i7x16_add_s`, opcode 0x113. */
const RELAXED_DOT = [0xfd, 0x93, 0x02];

const WEIGHTS = [-127, 127, -3, 100];
const ACTIVATIONS = [127, 1, 0, 90];

/** Whether the engine knows relaxed SIMD's dot product and computes it right: Node 20 does not on every CPU. */
function hasRelaxedDot(): boolean {
  const module = tinyModule([
    ...vector(filled(WEIGHTS)),
    ...vector(filled(ACTIVATIONS)),
    ...vector(filled([5, 0, 0, 0])),
    ...RELAXED_DOT,
    ...FIRST_LANE,
  ]);
  if (!WebAssembly.validate(module)) return false;
  const { f } = new WebAssembly.Instance(new WebAssembly.Module(module)).exports as { f: () => number };
  return f() === WEIGHTS.reduce((sum, weight, i) => sum + weight * (ACTIVATIONS[i] ?? 0), 5);
}

/** The build for this machine. */
export function bestBuild(): Build {
  if (typeof WebAssembly === "object") {
    if (hasRelaxedDot()) return "relaxed-simd";
    if (WebAssembly.validate(tinyModule([...vector(filled(WEIGHTS)), ...FIRST_LANE]))) return "simd128";
  }
  throw new ChemtagError(
    "unsupported",
    "chemtag needs WebAssembly with 128-bit SIMD: Chrome 91, Firefox 89, Safari 16.4, Node 20, or later",
  );
}

/** Where a build lies. */
export function moduleUrl(build: Build): URL {
  // Spelled out, so that bundlers find the files.
  return build === "relaxed-simd"
    ? new URL("./wasm/relaxed-simd/chemtag_bg.wasm", import.meta.url)
    : new URL("./wasm/simd128/chemtag_bg.wasm", import.meta.url);
}

/** Fetches and compiles the build for this machine. */
export async function compile(): Promise<CompiledEngine> {
  const build = bestBuild();
  const url = moduleUrl(build);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return { build, module: await WebAssembly.compile(await readFile(url)) };
  }
  let response: Response;
  try {
    response = await fetch(url);
  } catch (cause) {
    throw new ChemtagError("network", `${url} cannot be fetched: ${String(cause)}`);
  }
  if (!response.ok) throw new ChemtagError("http", `${url}: the server answers ${response.status}`);
  // A server that does not know the type of .wasm files rules the streaming compiler out.
  const streams = response.headers.get("content-type")?.startsWith("application/wasm");
  const module = streams ? await WebAssembly.compileStreaming(response) : await WebAssembly.compile(await response.arrayBuffer());
  return { build, module };
}

/** The engine's own interface (`Tagger`, `toInt8`, ...) in this thread, which it then keeps busy. Pages want `createTagger` instead. */
export async function instantiate(engine?: CompiledEngine): Promise<typeof plain> {
  const { build, module } = engine ?? (await compile());
  const glue = build === "relaxed-simd" ? (relaxed as unknown as typeof plain) : plain;
  await glue.default({ module_or_path: module });
  return glue;
}
