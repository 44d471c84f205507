/** chemtag in Node 20 or later: the same as in browsers, with worker threads and files. There is no cache: the model lies on the disk. */

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

import { ChemtagError } from "./errors.js";
import { model } from "./model.js";
import { type Platform, Tagger } from "./pool.js";
import type { Report } from "./protocol.js";
import type { TaggerOptions } from "./types.js";

export { ChemtagError, type ErrorCode } from "./errors.js";
export type { Tagger } from "./pool.js";
export type * from "./types.js";

const node: Platform = {
  spawn() {
    const worker = new Worker(new URL("./worker-node.js", import.meta.url), {
      name: "chemtag",
      // Flags of the main program, such as --input-type, need not fit a worker.
      execArgv: [],
    });
    return {
      send: (order) => worker.postMessage(order),
      receive: (handler) => worker.on("message", (report: Report) => handler(report)),
      crashed(handler) {
        worker.once("error", (error: Error) => handler(error.message));
        worker.once("exit", (code) => handler(`exit code ${code}`));
      },
      // A tagger with nothing to do does not keep the process alive.
      hold: (busy) => (busy ? worker.ref() : worker.unref()),
      end: () => void worker.terminate(),
    };
  },
  async source(url) {
    if (url.protocol !== "file:") return { url: url.href };
    try {
      return { file: new Blob([await readFile(url)]) };
    } catch (cause) {
      throw new ChemtagError("network", `${url.href} cannot be read: ${(cause as Error).message}`);
    }
  },
  baseUrl: () => pathToFileURL(`${process.cwd()}/`).href,
};

/** Makes a tagger and starts to load its model in the background. */
export function createTagger(options: TaggerOptions = {}): Tagger {
  return new Tagger(node, model, options);
}
