/** Messages between a pool and its workers. */

import type { CompiledEngine } from "./engine.js";
import type { PlainError } from "./errors.js";
import type { CachedModel, CacheOutcome, Entity, ModelInfo, Progress, ReadOptions } from "./types.js";

/** Where a worker has its model from: an address, or the file that another worker has fetched. */
export type ModelSource = { url: string } | { file: Blob };

/** What a load needs to know, but for what cannot be sent. */
export interface LoadSettings {
  sha256: string | undefined;
  bytes: number | undefined;
  cache: boolean;
  retries: number | undefined;
  keepFile: boolean;
}

/** To a worker. */
export type Order =
  | { kind: "start"; engine: CompiledEngine; source: ModelSource; settings: LoadSettings }
  | { kind: "abort" }
  | { kind: "tag"; id: number; texts: string[]; options: ReadOptions }
  | { kind: "cancel"; id: number }
  | { kind: "cache"; id: number; action: "list" | "clear" };

/** From a worker. */
export type Report =
  | ({ kind: "progress" } & Progress)
  | { kind: "ready"; info: ModelInfo; file: Blob | undefined }
  | { kind: "cached"; outcome: CacheOutcome }
  | { kind: "failed"; error: PlainError }
  | { kind: "crashed"; message: string }
  /** UTF-16 code units that were read since the last such report. */
  | { kind: "step"; id: number; units: number }
  | { kind: "result"; id: number; entities: Entity[][] }
  | { kind: "cache"; id: number; models: CachedModel[] }
  | { kind: "error"; id: number; error: PlainError };

/** One end of the connection. */
export interface Port<In, Out> {
  send(message: Out): void;
  receive(handler: (message: In) => void): void;
}
