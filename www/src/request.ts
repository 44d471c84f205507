/** Some texts that are to be tagged -> tasks for workers; their answers -> the caller's promise. */

import { ChemtagError } from "./errors.js";
import type { Entity, ReadOptions, TagOptions } from "./types.js";

/** Code units of a task: enough for its message to cost nothing, few enough for workers to end at about the same time. */
const TASK_UNITS = { least: 2048, most: 32_768 };
/** Tasks of a batch for each worker. */
const TASKS_PER_WORKER = 4;

/** Neighbouring texts of a request, for one worker. */
export interface Task {
  id: number;
  request: Request;
  /** Place of the first text among the request's. */
  first: number;
  texts: string[];
}

/** What a caller waits for. */
export class Request {
  readonly promise: Promise<Entity[][]>;
  readonly options: TagOptions;
  readonly #texts: string[];
  readonly #units: number;
  #found: Entity[][];
  #missing: number;
  #done = 0;
  #resolve!: (entities: Entity[][]) => void;
  #reject!: (error: ChemtagError) => void;
  #unlisten = () => {};

  constructor(texts: string[], options: TagOptions) {
    this.options = options;
    this.#texts = texts;
    this.#units = texts.reduce((sum, text) => sum + text.length, 0);
    this.#found = new Array<Entity[]>(texts.length);
    this.#missing = texts.length;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    if (texts.length === 0) this.#resolve([]);
  }

  /** What workers need of the options. */
  get readOptions(): ReadOptions {
    const { threshold, loneSentences } = this.options;
    return { threshold: threshold ?? null, loneSentences: loneSentences ?? false };
  }

  /** Cuts the texts into tasks. A text stays whole: its sentences are read with their neighbours. */
  *tasks(workers: number, nextId: () => number): Generator<Task> {
    const share = this.#units / (workers * TASKS_PER_WORKER);
    const most = Math.min(Math.max(share, TASK_UNITS.least), TASK_UNITS.most);
    let [first, units] = [0, 0];
    for (const [index, text] of this.#texts.entries()) {
      if (index > first && units + text.length > most) {
        yield { id: nextId(), request: this, first, texts: this.#texts.slice(first, index) };
        [first, units] = [index, 0];
      }
      units += text.length;
    }
    yield { id: nextId(), request: this, first, texts: this.#texts.slice(first) };
  }

  /** Calls `handler` when the caller's signal says so. */
  onAbort(handler: () => void): void {
    const { signal } = this.options;
    signal?.addEventListener("abort", handler, { once: true });
    this.#unlisten = () => signal?.removeEventListener("abort", handler);
  }

  /** So many more code units are read. */
  advance(units: number): void {
    this.#done += units;
    if (this.#missing > 0) this.options.onProgress?.(Math.min(this.#done / Math.max(this.#units, 1), 1));
  }

  /** A task's answer; whether it was the last one. */
  put(first: number, entities: Entity[][]): boolean {
    for (const [offset, found] of entities.entries()) this.#found[first + offset] = found;
    this.#missing -= entities.length;
    if (this.#missing > 0) return false;
    this.#unlisten();
    this.#resolve(this.#found);
    return true;
  }

  /** There will be no answer. */
  fail(error: ChemtagError): void {
    this.#missing = 0;
    this.#unlisten();
    this.#reject(error);
  }
}
