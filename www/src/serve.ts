/**
 * A worker's side: orders in, reports out. It loads one model, then tags one request at a time, in steps between which it hears of
 * cancellations.
 */

import { instantiate } from "./engine.js";
import { ChemtagError, plain } from "./errors.js";
import type { LoadSettings, ModelSource, Order, Port, Report } from "./protocol.js";
import type { Entity, ReadOptions } from "./types.js";
import type { Tagger } from "./wasm/simd128/chemtag.js";

type Engine = Awaited<ReturnType<typeof instantiate>>;

/** Code units of short texts that are read together between two looks at cancellations. */
const STEP_UNITS = 2048;

/** Answers orders until the worker is ended. */
export function serve(port: Port<Order, Report>): void {
  let engine: Engine | undefined;
  let tagger: Tagger | undefined;
  const aborts = new AbortController();
  /** Requests that are not yet answered, and those of them that nobody wants any more. */
  const pending = new Set<number>();
  const cancelled = new Set<number>();
  let queue: Promise<void> = Promise.resolve();

  /** Runs one after another what takes time. */
  const enqueue = (work: () => Promise<void>) => {
    queue = queue.then(work).catch((thrown: unknown) => {
      // Instances are not to be used after a trap: their memory may be in any state.
      const isTrap = thrown instanceof WebAssembly.RuntimeError || thrown instanceof RangeError;
      port.send({ kind: "crashed", message: `${isTrap ? "the engine stopped" : "internal error"}: ${String(thrown)}` });
    });
  };

  const start = async (compiled: Parameters<typeof instantiate>[0], source: ModelSource, settings: LoadSettings) => {
    try {
      engine = await instantiate(compiled);
      tagger = await engine.Tagger.load("url" in source ? source.url : source.file, {
        ...settings,
        signal: aborts.signal,
        onProgress: (loaded: number, total: number | undefined) => port.send({ kind: "progress", loaded, total }),
      });
      port.send({ kind: "ready", info: tagger.info(), file: tagger.takeFile() });
      void tagger.cached.then((outcome) => port.send({ kind: "cached", outcome }));
    } catch (thrown) {
      if (thrown instanceof WebAssembly.RuntimeError) throw thrown;
      port.send({ kind: "failed", error: plain(thrown) });
    }
  };

  const answer = async (id: number, work: () => Promise<Report>) => {
    try {
      if (cancelled.has(id)) throw new ChemtagError("aborted", "the request was cancelled");
      port.send(await work());
    } catch (thrown) {
      if (!(thrown instanceof ChemtagError)) throw thrown;
      port.send({ kind: "error", id, error: plain(thrown) });
    } finally {
      pending.delete(id);
      cancelled.delete(id);
    }
  };

  const tag = async (id: number, texts: string[], options: ReadOptions): Promise<Report> => {
    if (!tagger) throw new ChemtagError("internal", "a request came before the model was loaded");
    const entities: Entity[][] = [];
    for (const group of groups(texts)) {
      const [only] = group;
      if (group.length === 1 && only !== undefined && only.length > STEP_UNITS) {
        entities.push(await tagLong(tagger, id, only, options));
      } else {
        entities.push(...(tagger.tagBatch(group, options) as Entity[][]));
        port.send({ kind: "step", id, units: group.reduce((sum, text) => sum + text.length, 0) });
      }
      if (entities.length < texts.length) await hear(id);
    }
    return { kind: "result", id, entities };
  };

  const tagLong = async (tagger: Tagger, id: number, text: string, options: ReadOptions): Promise<Entity[]> => {
    const entities: Entity[] = [];
    const run = tagger.begin(text, options);
    try {
      let done = 0;
      while (!run.ended) {
        entities.push(...(run.step() as Entity[]));
        port.send({ kind: "step", id, units: run.done - done });
        done = run.done;
        await hear(id);
      }
    } finally {
      run.free();
    }
    return entities;
  };

  /** Lets messages in. */
  const hear = async (id: number) => {
    await turn();
    if (cancelled.has(id)) throw new ChemtagError("aborted", "the request was cancelled");
  };

  port.receive((order) => {
    switch (order.kind) {
      case "start":
        return enqueue(() => start(order.engine, order.source, order.settings));
      case "abort":
        return aborts.abort();
      case "tag":
        pending.add(order.id);
        return enqueue(() => answer(order.id, () => tag(order.id, order.texts, order.options)));
      case "cancel":
        if (pending.has(order.id)) cancelled.add(order.id);
        return;
      case "cache":
        return enqueue(() =>
          answer(order.id, async () => {
            if (!engine) throw new ChemtagError("internal", "the engine is not loaded");
            if (order.action === "clear") await engine.clearCache();
            return { kind: "cache", id: order.id, models: await engine.cachedModels() };
          }),
        );
    }
  });
}

/** Neighbouring short texts together, long ones alone. */
function* groups(texts: string[]): Generator<string[]> {
  let group: string[] = [];
  let units = 0;
  for (const text of texts) {
    if (group.length > 0 && units + text.length > STEP_UNITS) {
      yield group;
      [group, units] = [[], 0];
    }
    group.push(text);
    units += text.length;
  }
  if (group.length > 0) yield group;
}

/** Resolved after the messages that wait. Timers would wait four milliseconds each. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
