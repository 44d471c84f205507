/**
 * Requests in, entities out: workers that share one download and one compiled module. The first one loads the model from the moment the pool is
 * made, the others get the file from it; requests wait for whoever is free. A worker that ends unexpectedly is replaced.
 */

import { compile, type CompiledEngine } from "./engine.js";
import { ChemtagError, revived } from "./errors.js";
import type { LoadSettings, ModelSource, Order, Port, Report } from "./protocol.js";
import { Request, type Task } from "./request.js";
import type { CachedModel, CacheOutcome, Entity, ModelInfo, Ready, TaggerOptions, TagOptions } from "./types.js";

/** A thread, whatever the platform calls it. */
export interface WorkerHandle extends Port<Report, Order> {
  /** Called once if the thread ends by itself. */
  crashed(handler: (message: string) => void): void;
  /** Whether the process is to live on for its sake. */
  hold(busy: boolean): void;
  /** Ends the thread. */
  end(): void;
}

/** What differs between browsers and Node. */
export interface Platform {
  spawn(): WorkerHandle;
  /** Where workers can have a model from. */
  source(url: URL): Promise<ModelSource>;
  baseUrl(): string;
}

/** Replacements of workers that crash without having answered anything in between. */
const MOST_CRASHES = 3;

interface Slot {
  handle: WorkerHandle;
  state: "waiting" | "starting" | "ready";
  task: Task | undefined;
}

class Deferred<T> {
  resolve!: (value: T) => void;
  reject!: (error: ChemtagError) => void;
  readonly promise = new Promise<T>((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });

  constructor() {
    // Who does not ask is not to be told.
    this.promise.catch(() => undefined);
  }
}

/** One attempt to load the model, and the workers that hold it. */
interface Load {
  ready: Deferred<Ready>;
  cached: Deferred<CacheOutcome>;
  slots: Set<Slot>;
  source: ModelSource | undefined;
  loaded: boolean;
}

/** A model and the workers that tag with it. Made by `createTagger`. */
export class Tagger {
  readonly #platform: Platform;
  readonly #options: TaggerOptions;
  readonly #url: URL;
  readonly #settings: LoadSettings;
  readonly #workers: number;
  #engine: Promise<CompiledEngine> | undefined;
  /** Of the last attempt, which `#load` is unless it has failed. */
  #ready!: Promise<Ready>;
  #load: Load | undefined;
  #queue: Task[] = [];
  #requests = new Set<Request>();
  #cacheCalls = new Map<number, Deferred<CachedModel[]>>();
  #lastId = 0;
  #crashes = 0;
  #disposed = false;

  /** @internal */
  constructor(platform: Platform, model: { url: URL; sha256: string; bytes: number }, options: TaggerOptions) {
    const workers = options.workers ?? 1;
    if (!Number.isInteger(workers) || workers < 1) {
      throw new ChemtagError("bad-option", `workers is ${workers}, but must be a whole number from 1 on`);
    }
    const own = options.modelUrl === undefined;
    this.#platform = platform;
    this.#options = options;
    this.#workers = workers;
    this.#url = options.modelUrl === undefined ? model.url : absolute(options.modelUrl, platform.baseUrl());
    this.#settings = {
      sha256: options.sha256 ?? (own ? model.sha256 : undefined),
      bytes: own ? model.bytes : undefined,
      cache: options.cache ?? true,
      retries: options.retries,
      keepFile: workers > 1,
    };
    this.#begin();
  }

  /** Settled when the model is loaded, or cannot be. After a failure the next call of `load` or `tag` tries again. */
  get ready(): Promise<Ready> {
    return this.#ready;
  }

  /** Loads the model if that has failed before; else the same as `ready`. */
  load(): Promise<Ready> {
    if (!this.#load && !this.#disposed) this.#begin();
    return this.ready;
  }

  /** The chemicals in a text, in order. Waits for the model. */
  async tag(text: string, options: TagOptions = {}): Promise<Entity[]> {
    const [entities] = await this.tagBatch([text], options);
    return entities ?? [];
  }

  /** The chemicals in each of several texts; all workers share them. */
  tagBatch(texts: readonly string[], options: TagOptions = {}): Promise<Entity[][]> {
    if (this.#disposed) return Promise.reject(disposed());
    if (options.signal?.aborted) return Promise.reject(new ChemtagError("aborted", "the request was aborted"));
    const wrong = [...texts].findIndex((text) => typeof text !== "string");
    if (wrong >= 0) return Promise.reject(new ChemtagError("bad-option", `text ${wrong} is no string`));
    if (options.latest !== undefined) {
      const message = "a later request took the place of this one";
      for (const other of [...this.#requests]) {
        if (other.options.latest === options.latest) this.#end(other, new ChemtagError("superseded", message));
      }
    }
    const request = new Request([...texts], options);
    if (texts.length === 0) return request.promise;
    this.#requests.add(request);
    this.#queue.push(...request.tasks(this.#workers, () => ++this.#lastId));
    request.onAbort(() => this.#end(request, new ChemtagError("aborted", "the request was aborted")));
    void this.load();
    this.#pump();
    return request.promise;
  }

  /** What is loaded. */
  async info(): Promise<ModelInfo> {
    const { workers: _, cached: __, ...info } = await this.ready;
    return info;
  }

  /** The models in the browser's cache, this one and others. */
  readonly cache = {
    list: (): Promise<CachedModel[]> => this.#askCache("list"),
    /** Bytes of all of them. */
    size: async (): Promise<number> => (await this.#askCache("list")).reduce((sum, model) => sum + model.bytes, 0),
    clear: async (): Promise<void> => void (await this.#askCache("clear")),
  };

  /** Ends the workers, which gives their memory back. Whatever is not answered yet is rejected with the code `disposed`. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#fail(disposed());
    this.#ready = Promise.reject(disposed());
    this.#ready.catch(() => undefined);
  }


  #begin(): void {
    const load: Load = { ready: new Deferred(), cached: new Deferred(), slots: new Set(), source: undefined, loaded: false };
    this.#load = load;
    this.#ready = load.ready.promise;
    this.#crashes = 0;
    const { signal } = this.#options;
    const abort = () => {
      if (!load.loaded && this.#load === load) this.#fail(new ChemtagError("aborted", "the load was aborted by its signal"));
    };
    if (signal?.aborted) return abort();
    signal?.addEventListener("abort", abort, { once: true });
    const settled = () => signal?.removeEventListener("abort", abort);
    load.ready.promise.then(settled, settled);
    try {
      // All at once: their scripts load while the module compiles.
      for (let i = 0; i < this.#workers; i++) this.#spawn(load);
    } catch (cause) {
      return this.#fail(new ChemtagError("unsupported", `a worker cannot be started: ${String(cause)}`));
    }
    this.#platform.source(this.#url).then(
      (source) => {
        load.source = source;
        const [first] = load.slots;
        if (first) this.#start(load, first, source);
      },
      (cause) => this.#fail(cause instanceof ChemtagError ? cause : new ChemtagError("network", String(cause)), load),
    );
  }

  #spawn(load: Load): Slot {
    const slot: Slot = { handle: this.#platform.spawn(), state: "waiting", task: undefined };
    load.slots.add(slot);
    slot.handle.receive((report) => this.#receive(load, slot, report));
    slot.handle.crashed((message) => this.#crash(load, slot, message));
    return slot;
  }

  #start(load: Load, slot: Slot, source: ModelSource): void {
    slot.state = "starting";
    this.#engine ??= compile();
    this.#engine.then(
      (engine) => {
        if (load.slots.has(slot)) slot.handle.send({ kind: "start", engine, source, settings: this.#settings });
      },
      (cause: unknown) => {
        this.#engine = undefined;
        this.#fail(cause instanceof ChemtagError ? cause : new ChemtagError("internal", String(cause)), load);
      },
    );
  }

  #receive(load: Load, slot: Slot, report: Report): void {
    if (!load.slots.has(slot)) return;
    switch (report.kind) {
      case "progress":
        if (!load.loaded) this.#options.onProgress?.({ loaded: report.loaded, total: report.total });
        return;
      case "ready":
        return this.#nowReady(load, slot, report.info, report.file);
      case "cached":
        return load.cached.resolve(report.outcome);
      case "failed":
        slot.handle.end();
        load.slots.delete(slot);
        // Where others tag already, one that could not be added is no reason to stop.
        if (![...load.slots].some(({ state }) => state === "ready")) this.#fail(revived(report.error), load);
        return;
      case "crashed":
        return this.#crash(load, slot, report.message);
      case "step":
        return slot.task?.id === report.id ? slot.task.request.advance(report.units) : undefined;
      case "result":
        this.#crashes = 0;
        return this.#settle(slot, report.id, (task) => {
          if (task.request.put(task.first, report.entities)) this.#requests.delete(task.request);
        });
      case "error": {
        const error = revived(report.error);
        this.#cacheCalls.get(report.id)?.reject(error);
        this.#cacheCalls.delete(report.id);
        return this.#settle(slot, report.id, (task) => this.#end(task.request, error));
      }
      case "cache":
        this.#cacheCalls.get(report.id)?.resolve(report.models);
        this.#cacheCalls.delete(report.id);
        return;
    }
  }

  #nowReady(load: Load, slot: Slot, info: ModelInfo, file: Blob | undefined): void {
    slot.state = "ready";
    slot.handle.hold(false);
    if (!load.loaded) {
      load.loaded = true;
      load.ready.resolve({ ...info, workers: this.#workers, cached: load.cached.promise });
      const source = file ? { file } : load.source;
      for (const other of load.slots) {
        if (other.state === "waiting" && source) this.#start(load, other, source);
      }
    }
    this.#pump();
  }

  /** The task that a worker had is done. */
  #settle(slot: Slot, id: number, how: (task: Task) => void): void {
    const task = slot.task;
    if (task?.id !== id) return;
    slot.task = undefined;
    slot.handle.hold(false);
    how(task);
    this.#pump();
  }

  /** Gives work to whoever is free. */
  #pump(): void {
    for (const slot of this.#load?.slots ?? []) {
      if (slot.state !== "ready" || slot.task) continue;
      const task = this.#queue.shift();
      if (!task) return;
      slot.task = task;
      slot.handle.hold(true);
      slot.handle.send({ kind: "tag", id: task.id, texts: task.texts, options: task.request.readOptions });
    }
  }

  /** Ends a request that is not wanted any more, or cannot be answered. */
  #end(request: Request, error: ChemtagError): void {
    this.#requests.delete(request);
    this.#queue = this.#queue.filter((task) => task.request !== request);
    for (const slot of this.#load?.slots ?? []) {
      if (slot.task?.request === request) slot.handle.send({ kind: "cancel", id: slot.task.id });
    }
    request.fail(error);
  }

  /** A worker has ended: what it had is lost, another one takes its place. */
  #crash(load: Load, slot: Slot, message: string): void {
    if (!load.slots.delete(slot)) return;
    slot.handle.end();
    const error = new ChemtagError("worker-crashed", `a worker ended unexpectedly: ${message}`);
    if (slot.task) this.#end(slot.task.request, error);
    // Those of other workers would be settled by them; telling all to ask again is simpler, and a crash is rare.
    for (const call of this.#cacheCalls.values()) call.reject(error);
    this.#cacheCalls.clear();
    load.cached.resolve({ stored: false, reason: error.message });
    this.#crashes += 1;
    if (this.#crashes > MOST_CRASHES || !load.source) return this.#fail(error, load);
    const next = this.#spawn(load);
    if (load.loaded || slot.state !== "waiting") this.#start(load, next, load.source);
  }

  /** Gives a load up, and all that waits for it. */
  #fail(error: ChemtagError, load: Load | undefined = this.#load): void {
    if (load !== this.#load) return;
    this.#load = undefined;
    for (const slot of load?.slots ?? []) slot.handle.end();
    load?.slots.clear();
    load?.ready.reject(error);
    load?.cached.resolve({ stored: false, reason: error.message });
    for (const call of this.#cacheCalls.values()) call.reject(error);
    this.#cacheCalls.clear();
    this.#queue = [];
    for (const request of this.#requests) request.fail(error);
    this.#requests.clear();
  }

  async #askCache(action: "list" | "clear"): Promise<CachedModel[]> {
    await this.ready;
    const slot = [...(this.#load?.slots ?? [])].find(({ state }) => state === "ready");
    if (!slot) throw disposed();
    const id = ++this.#lastId;
    const call = new Deferred<CachedModel[]>();
    this.#cacheCalls.set(id, call);
    slot.handle.send({ kind: "cache", id, action });
    return call.promise;
  }
}

function disposed(): ChemtagError {
  return new ChemtagError("disposed", "the tagger was disposed of");
}

function absolute(url: string | URL, base: string): URL {
  try {
    return new URL(url, base);
  } catch {
    throw new ChemtagError("bad-option", `modelUrl is "${String(url)}", which is no address`);
  }
}
