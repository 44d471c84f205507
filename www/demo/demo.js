/** The page: text and files in, marked mentions, a table and exports out. All work on text happens in chemtag's workers. */

import { ChemtagError, createTagger } from "./chemtag/index.js";
import { bioc, csv, jsonLines } from "./export.js";

/** Longer texts are not shown and marked as one types, but tagged as files are. */
const LONGEST_SHOWN = 50_000;
/** Milliseconds without a key before what stands there is tagged. */
const PAUSE = 80;
/** Rows of the table that are drawn. */
const MOST_ROWS = 500;

const CLASSES = {
  SYSTEMATIC: "Systematic name",
  TRIVIAL: "Trivial name",
  FORMULA: "Formula",
  ABBREVIATION: "Abbreviation",
  FAMILY: "Family",
  IDENTIFIER: "Identifier",
  MULTIPLE: "Multiple",
};

const EXAMPLE =
  "The Suzuki coupling of 4-bromoanisole with phenylboronic acid was run with Pd(PPh3)4 and K2CO3 in a mixture of tetrahydrofuran (THF) and water at 80 °C. " +
  "After extraction with ethyl acetate the organic layer was dried over MgSO4, and the biaryl was crystallised from n-hexane.\n\n" +
  "Aspirin and (S)-ibuprofen inhibit cyclooxygenase; α-tocopherol and β-carotene did not. Thin films of Hf0.5Zr0.5O2 stay ferroelectric on TiN electrodes.";

const at = (id) => document.getElementById(id);
const [text, marks, editor, rows, status] = ["text", "marks", "editor", "rows", "status"].map(at);

/** Documents and what was found in them; the first one is the editor's while no files are open. */
let documents = [];
let timer;
let marked = "";
let batch;

const workers = Math.max(1, Math.min(2, (navigator.hardwareConcurrency ?? 2) - 1));
const tagger = createTagger({
  workers,
  onProgress({ loaded, total }) {
    const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
    status.textContent = `Fetching the model, ${megabytes(loaded)} of ${total ? megabytes(total) : "?"} MB. Next time it is here already.`;
    if (total) at("loading").value = loaded / total;
  },
});

tagger.ready.then(async (ready) => {
  at("loading").classList.add("done");
  status.textContent = `Ready${ready.source === "cache" ? ", from this browser's cache" : ""}.`;
  at("model").textContent =
    `${ready.name} ${ready.version} (${ready.license}), ${ready.engine}, ${(ready.bytes / 1e6).toFixed(1)} MB, ` +
    `SHA-256 ${ready.sha256.slice(0, 12)}…. Nothing leaves this page.`;
  const { stored, reason } = await ready.cached;
  if (!stored) at("model").textContent += ` The model is not kept for next time: ${reason}.`;
}, showError);

function showError(error) {
  if (error instanceof ChemtagError && ["superseded", "aborted"].includes(error.code)) return;
  at("loading").classList.add("done");
  status.textContent = `${error.message}. Change the text to try again.`;
}

function options() {
  const value = Number(at("threshold").value);
  return { threshold: value > 0 ? value / 100 : null };
}

/** Tags what the editor holds. */
async function tagEditor() {
  const value = text.value;
  try {
    await tagger.load();
    const started = performance.now();
    const entities = await tagger.tag(value, { ...options(), latest: "editor" });
    if (text.value !== value) return;
    documents = [{ id: "text", text: value, entities }];
    showMarks(value, entities);
    showFound();
    status.textContent = value.trim() ? `${entities.length} found in ${Math.round(performance.now() - started)} ms.` : "Ready.";
  } catch (error) {
    showError(error);
  }
}

/** Marks lie in a copy of the text below the text area. */
function showMarks(value, entities) {
  const nodes = [];
  let end = 0;
  for (const entity of entities) {
    const mark = document.createElement("mark");
    if (entity.class) mark.className = entity.class;
    mark.textContent = value.slice(entity.start, entity.end);
    nodes.push(value.slice(end, entity.start), mark);
    end = entity.end;
  }
  // A line end at the very end has a line of its own in a text area only.
  marks.replaceChildren(...nodes, `${value.slice(end)}\u200b`);
  marks.scrollTop = text.scrollTop;
  marked = value;
}

/** Moves the marks along with what is typed, until the text is tagged again. */
function shiftMarks() {
  const value = text.value;
  const entities = documents[0]?.text === marked ? documents[0].entities : [];
  const shorter = Math.min(value.length, marked.length);
  let prefix = 0;
  while (prefix < shorter && value[prefix] === marked[prefix]) prefix++;
  let suffix = 0;
  while (suffix < shorter - prefix && value.at(-1 - suffix) === marked.at(-1 - suffix)) suffix++;
  const [moved, change] = [marked.length - suffix, value.length - marked.length];
  const shifted = entities
    .filter(({ start, end }) => end <= prefix || start >= moved)
    .map((entity) => (entity.end <= prefix ? entity : { ...entity, start: entity.start + change, end: entity.end + change }));
  documents = [{ id: "text", text: value, entities: shifted }];
  showMarks(value, shifted);
}

/** Mentions that are spelled the same are one row. */
function grouped() {
  const groups = new Map();
  for (const [place, { entities }] of documents.entries()) {
    for (const entity of entities) {
      const key = `${entity.class}\n${entity.text}`;
      const group = groups.get(key) ?? { ...entity, times: 0, place };
      group.times += 1;
      group.score = Math.max(group.score, entity.score);
      groups.set(key, group);
    }
  }
  return [...groups.values()].sort((a, b) => b.times - a.times);
}

function chip(kind, label) {
  const element = document.createElement("span");
  element.className = `chip ${kind ?? ""}`;
  element.textContent = label;
  return element;
}

function showFound() {
  const total = documents.reduce((sum, { entities }) => sum + entities.length, 0);
  at("count").textContent = documents.length > 1 ? `${total} in ${documents.length} documents` : String(total);
  for (const id of Object.keys(EXPORTS)) at(id).disabled = total === 0;
  const wanted = at("search").value.trim().toLowerCase();
  const groups = grouped().filter((group) => group.text.toLowerCase().includes(wanted));
  at("none").hidden = groups.length > 0;
  at("none").textContent = total > 0 ? "No mention holds these letters." : "No chemicals yet.";
  rows.replaceChildren(
    ...groups.slice(0, MOST_ROWS).map((group) => {
      const row = document.createElement("tr");
      const mention = document.createElement("button");
      mention.className = "mention";
      mention.type = "button";
      mention.textContent = group.text;
      mention.addEventListener("click", () => show(group.text));
      const cells = [mention, chip(group.class, CLASSES[group.class] ?? group.class ?? "none"), String(group.times), group.score.toFixed(3)];
      for (const [column, content] of cells.entries()) {
        const cell = row.insertCell();
        cell.append(content);
        if (column > 1) cell.className = "number";
      }
      return row;
    }),
  );
}

/** Selects the next occurrence of a mention in the editor. */
function show(mention) {
  const places = (documents[0]?.entities ?? []).filter((entity) => entity.text === mention);
  const next = places.find(({ start }) => start >= text.selectionEnd) ?? places[0];
  if (!next || documents[0].text !== text.value) return;
  text.focus();
  text.setSelectionRange(next.start, next.end);
  const mark = [...marks.querySelectorAll("mark")][documents[0].entities.indexOf(next)];
  text.scrollTop = mark ? mark.offsetTop - text.clientHeight / 2 : text.scrollTop;
}

/** Tags documents that are not in the editor. */
async function tagDocuments(found) {
  batch?.abort();
  batch = new AbortController();
  const { signal } = batch;
  text.value = "";
  showMarks("", []);
  at("batch").hidden = false;
  const label = found.length === 1 ? found[0].id : `${found.length} documents`;
  const started = performance.now();
  const onProgress = (done) => {
    at("batch-progress").value = done;
    at("batch-text").textContent = `${label}, ${Math.round(100 * done)} %`;
  };
  onProgress(0);
  try {
    const entities = await tagger.tagBatch(
      found.map((document) => document.text),
      { ...options(), signal, onProgress },
    );
    documents = found.map((document, i) => ({ ...document, entities: entities[i] }));
    showFound();
    status.textContent = `${label}: done in ${((performance.now() - started) / 1000).toFixed(1)} s.`;
  } catch (error) {
    if (signal.aborted) status.textContent = "Cancelled.";
    else showError(error);
  } finally {
    if (batch.signal === signal) at("batch").hidden = true;
  }
}

async function open(files) {
  const found = await Promise.all([...files].map(async (file) => ({ id: file.name, text: await file.text() })));
  if (found.length === 1) take(found[0].text, found[0].id);
  else if (found.length > 1) await tagDocuments(found);
}

/** A text into the editor, or, if it is long, past it. */
function take(value, id = "Pasted text") {
  if (value.length > LONGEST_SHOWN) return void tagDocuments([{ id, text: value }]);
  batch?.abort();
  text.value = value;
  showMarks(value, []);
  void tagEditor();
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Formats that what was found can be saved in. */
const EXPORTS = {
  jsonl: ["chemicals.jsonl", "application/x-ndjson", jsonLines],
  csv: ["chemicals.csv", "text/csv", csv],
  bioc: ["chemicals.bioc.json", "application/json", bioc],
};

text.addEventListener("input", () => {
  batch?.abort();
  clearTimeout(timer);
  if (text.value.length > LONGEST_SHOWN) return take(text.value);
  shiftMarks();
  timer = setTimeout(tagEditor, PAUSE);
});
text.addEventListener("scroll", () => void (marks.scrollTop = text.scrollTop), { passive: true });
text.addEventListener("paste", (event) => {
  const pasted = event.clipboardData?.getData("text/plain") ?? "";
  if (pasted.length <= LONGEST_SHOWN) return;
  // The text area would take seconds to lay it out.
  event.preventDefault();
  take(pasted);
});
at("threshold").addEventListener("input", () => {
  const { threshold } = options();
  at("threshold-value").textContent = threshold === null ? "best reading" : `${Math.round(threshold * 100)} %`;
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (documents.length === 1 && documents[0].text === text.value) void tagEditor();
    else if (documents.length > 0) void tagDocuments(documents);
  }, PAUSE);
});
at("files").addEventListener("change", (event) => void open(event.target.files).catch(showError));
at("example").addEventListener("click", () => take(EXAMPLE));
at("clear").addEventListener("click", () => {
  take("");
  text.focus();
});
at("cancel").addEventListener("click", () => batch?.abort());
for (const [id, [name, type, format]] of Object.entries(EXPORTS)) at(id).addEventListener("click", () => save(name, type, format(documents)));
at("search").addEventListener("input", showFound);
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  editor.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    editor.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") void open(event.dataTransfer.files).catch(showError);
  });
}

at("legend").append(
  ...Object.entries(CLASSES).map(([kind, label]) => {
    const item = document.createElement("li");
    item.append(chip(kind, label));
    return item;
  }),
);
take(new URLSearchParams(location.search).get("text") ?? EXAMPLE);
navigator.serviceWorker?.register("service-worker.js").catch((error) => console.warn(`offline use is not possible: ${error.message}`));
