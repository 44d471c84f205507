/** What users write, compiled against the package's types. Lines that must not compile say so. */

import { ChemtagError, createTagger, type Entity, type ErrorCode, type Ready } from "chemtag";
import { instantiate } from "chemtag/engine";

export async function usage(): Promise<Entity[]> {
  const aborts = new AbortController();
  const tagger = createTagger({ workers: 2, modelUrl: new URL("https://example.org/m"), signal: aborts.signal, onProgress: ({ loaded }) => loaded + 1 });
  const ready: Ready = await tagger.ready;
  const stored: boolean = (await ready.cached).stored;
  const entities = await tagger.tag("benzene", { threshold: stored ? 0.5 : null, latest: "key", signal: aborts.signal });
  const kinds: (string | null)[] = entities.map((entity) => entity.class);
  const batch: Entity[][] = await tagger.tagBatch(["a", "b"], { onProgress: (done) => done.toFixed(2) });
  const bytes: number = (await tagger.cache.list()).reduce((sum, model) => sum + model.bytes, await tagger.cache.size());
  const engine = await instantiate();
  const direct = await engine.Tagger.load(new Uint8Array(bytes), {});
  direct.free();
  tagger.dispose();

  // @ts-expect-error a text is a string
  await tagger.tag(7);
  // @ts-expect-error no such option
  createTagger({ worker: 2 });
  // @ts-expect-error offsets are numbers
  const start: string = entities[0]?.start ?? 0;
  return kinds.length > 0 ? entities : (batch[Number(start)] ?? []);
}

export function code(thrown: unknown): ErrorCode | undefined {
  if (!(thrown instanceof ChemtagError)) return undefined;
  // @ts-expect-error no such code
  if (thrown.code === "hash") return undefined;
  return thrown.code;
}
