/**
 * What was found in documents -> files, in the formats of the command line (docs/formats.md): JSON Lines, CSV, BioC. A document is `{ id, text, entities }`, whose offsets count
 * UTF-16 code units; so do those of JSON Lines and CSV, while BioC's count characters.
 */

const fourDecimals = (score) => Math.round(score * 1e4) / 1e4;

/** One record a line. */
export function jsonLines(documents) {
  const record = ({ id, entities }) => ({
    id,
    offsets: "utf16",
    entities: entities.map(({ start, end, text, class: kind, score }) => ({ start, end, text, class: kind, score: fourDecimals(score) })),
  });
  return documents.map((document) => `${JSON.stringify(record(document))}\n`).join("");
}

/** One row a mention (RFC 4180). */
export function csv(documents) {
  const cell = (value) => (/[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const rows = documents.flatMap(({ id, entities }) =>
    entities.map((entity) => [id, entity.start, entity.end, entity.text, entity.class ?? "", fourDecimals(entity.score)]),
  );
  return [["id", "start", "end", "text", "class", "score"], ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

/** BioC in JSON (Comeau et al. 2013): one passage a document. */
export function bioc(documents) {
  const infons = (kind, score) => ({ type: kind ?? "Chemical", score: String(fourDecimals(score)) });
  return `${JSON.stringify({
    source: "chemtag",
    date: "",
    key: "",
    infons: {},
    documents: documents.map(({ id, text, entities }) => {
      let [units, characters] = [0, 0];
      /** Characters before a code unit that is not before the last one asked for. */
      const place = (unit) => {
        for (; units < unit; characters++) units += text.codePointAt(units) > 0xffff ? 2 : 1;
        return characters;
      };
      const annotations = entities.map(({ start, end, text: mention, class: kind, score }, index) => {
        const offset = place(start);
        return { id: `chemtag${index + 1}`, infons: infons(kind, score), text: mention, locations: [{ offset, length: place(end) - offset }] };
      });
      const passage = { offset: 0, infons: {}, text, sentences: [], annotations, relations: [] };
      return { id, infons: {}, passages: [passage], annotations: [], relations: [] };
    }),
  })}\n`;
}
