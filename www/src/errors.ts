/**
 * What goes wrong -> one class of errors, whose `code` programs can tell apart. Workers send code and message; the class is made anew here.
 */

/** Kinds of failures. */
export type ErrorCode =
  /** The caller's signal ended it. */
  | "aborted"
  /** A later request with the same `latest` took its place. */
  | "superseded"
  /** The tagger was disposed of. */
  | "disposed"
  /** No connection, or one that breaks off again and again. */
  | "network"
  /** The server answers with an error. */
  | "http"
  /** The file is not the one that was asked for. */
  | "hash-mismatch"
  /** The file is no model, or one that this version does not read. */
  | "model"
  /** An option makes no sense. */
  | "bad-option"
  /** There is no memory left. */
  | "out-of-memory"
  /** This browser or Node lacks what chemtag needs. */
  | "unsupported"
  /** The worker that had the request ended unexpectedly. A new one takes its place. */
  | "worker-crashed"
  /** A mistake of this library. */
  | "internal";

/** An error of chemtag. */
export class ChemtagError extends Error {
  /** What kind of failure it is. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string) {
    super(message);
    this.name = "ChemtagError";
    this.code = code;
  }
}

/** An error as it crosses the border between threads. */
export interface PlainError {
  code: ErrorCode;
  message: string;
}

/** Anything that was thrown, ready to cross the border. */
export function plain(thrown: unknown): PlainError {
  if (thrown instanceof ChemtagError) return { code: thrown.code, message: thrown.message };
  return { code: "internal", message: thrown instanceof Error ? thrown.message : String(thrown) };
}

/** The error on the other side. */
export function revived({ code, message }: PlainError): ChemtagError {
  return new ChemtagError(code, message);
}
