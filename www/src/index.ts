/**
 * chemtag in browsers: `createTagger` starts to load the model in a worker at once, and the first `tag` waits for it.
 *
 * ```js
 * import { createTagger } from "chemtag";
 *
 * const tagger = createTagger({ onProgress: ({ loaded, total }) => console.log(loaded, total) });
 * for (const { start, end, text, class: kind, score } of await tagger.tag("Aspirin was dissolved in ethanol.")) {
 *   console.log(start, end, text, kind, score);
 * }
 * tagger.dispose();
 * ```
 */

import { model } from "./model.js";
import { type Platform, Tagger } from "./pool.js";
import type { Report } from "./protocol.js";
import type { TaggerOptions } from "./types.js";

export { ChemtagError, type ErrorCode } from "./errors.js";
export type { Tagger } from "./pool.js";
export type * from "./types.js";

const browser: Platform = {
  spawn() {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "chemtag" });
    return {
      send: (order) => worker.postMessage(order),
      receive: (handler) => worker.addEventListener("message", (event: MessageEvent<Report>) => handler(event.data)),
      crashed(handler) {
        worker.addEventListener("error", (event) => handler(event.message || "its script cannot be loaded"), { once: true });
      },
      hold: () => undefined,
      end: () => worker.terminate(),
    };
  },
  source: (url) => Promise.resolve({ url: url.href }),
  baseUrl: () => document.baseURI,
};

/** Makes a tagger and starts to load its model in the background. */
export function createTagger(options: TaggerOptions = {}): Tagger {
  return new Tagger(browser, model, options);
}
