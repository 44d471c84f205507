/** What goes into a tagger and what comes out. */

/** A chemical named in a text: `text.slice(entity.start, entity.end) === entity.text`. */
export interface Entity {
  /** First UTF-16 code unit of the mention, as JavaScript counts a string's characters. */
  start: number;
  /** First code unit after it. */
  end: number;
  /** The mention as it stands in the text. */
  text: string;
  /** Its class, such as `SYSTEMATIC` or `FORMULA`; `null` if the model has no classes. */
  class: string | null;
  /** Probability, between 0 and 1, that exactly these words are a mention. */
  score: number;
}

/** How a text is read. */
export interface ReadOptions {
  /**
   * Without it: the mentions on the model's best path. Between 0 and 1: the best mentions that do not overlap and whose score is at least this;
   * a low value finds more.
   */
  threshold?: number | null;
  /** Read every sentence alone instead of with its neighbours. Slightly less precise. */
  loneSentences?: boolean;
}

/** Options of one request. */
export interface TagOptions extends ReadOptions {
  /** Ends the request: its promise is rejected with the code `aborted`. */
  signal?: AbortSignal;
  /**
   * For text that changes while it is tagged: a later request with the same key takes the place of an earlier one that is not yet answered, which
   * is rejected with the code `superseded`.
   */
  latest?: string;
  /** Called with the share of the text that is done, from 0 to 1. */
  onProgress?: (done: number) => void;
}

/** Bytes of the model that have come, and the length of the whole if it is known. */
export interface Progress {
  loaded: number;
  total: number | undefined;
}

/** How a tagger is made. */
export interface TaggerOptions {
  /** Address of a self-contained model (`.int8.safetensors`). Default: the one in this package. */
  modelUrl?: string | URL;
  /** SHA-256 of the model, in hexadecimal. The file is checked against it and cached by it. Default: known for the package's own model, else none. */
  sha256?: string;
  /** Threads that tag. Each holds its own copy of the weights. Default: 1. */
  workers?: number;
  /** Whether to keep the model in the browser's Cache Storage. Default: true. */
  cache?: boolean;
  /** Attempts after the first one, where a download breaks off. Default: 3. */
  retries?: number;
  /** Called while the model comes. */
  onProgress?: (progress: Progress) => void;
  /** Ends the load: `ready` is rejected with the code `aborted`. */
  signal?: AbortSignal;
}

/** A model that is loaded. */
export interface ModelInfo {
  name: string;
  version: string;
  /** SPDX expression of the weights' licence. */
  license: string;
  /** Names of the classes of entities. */
  classes: string[];
  /** Of the model's file, in hexadecimal. */
  sha256: string;
  /** Of the model's file. */
  bytes: number;
  /** Where the file came from. */
  source: "network" | "cache" | "bytes";
  /** What computes, such as `int8, cpu, relaxed-simd`. */
  engine: string;
  engineVersion: string;
  /** WebAssembly memory of one worker. */
  memoryBytes: number;
}

/** Whether the model is in the cache. */
export interface CacheOutcome {
  stored: boolean;
  /** Why it is not; empty if it is. */
  reason: string;
}

/** What is known once a tagger can tag. */
export interface Ready extends ModelInfo {
  /** Number of workers that are to be started. */
  workers: number;
  /** Settled once the cache has the model, or refuses. It is never rejected, and `tag` does not wait for it. */
  cached: Promise<CacheOutcome>;
}

/** A model in the browser's cache. */
export interface CachedModel {
  sha256: string;
  url: string | undefined;
  bytes: number;
}
