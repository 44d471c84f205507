/**
 * Serves the demo, site/, as a static host would: `npm run demo -- [PORT]`. The policy in its headers is what the page is made for: nothing but its own files.
 * As a module, for the tests: `serve(folder, { port, headers, intercept })`.
 */

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".mjs": "text/javascript; charset=utf-8",
  ".safetensors": "application/octet-stream",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".webmanifest": "application/manifest+json",
};

/** What the demo may load and run. */
export const POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; object-src 'none'; base-uri 'none'; form-action 'none'";

/** Serves a folder; `intercept(request, response)` may answer first and returns whether it has. */
export async function serve(folder, { port = 0, headers = {}, intercept = () => false } = {}) {
  const server = createServer((request, response) => {
    if (intercept(request, response)) return;
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const file = normalize(join(folder, path.endsWith("/") ? `${path}index.html` : path));
    if (!file.startsWith(folder + sep) || !existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
      return;
    }
    response.writeHead(200, {
      "content-type": TYPES[extname(file)] ?? "application/octet-stream",
      "content-length": statSync(file).size,
      "content-security-policy": POLICY,
      "cache-control": "no-cache",
      ...headers,
    });
    if (request.method === "HEAD") response.end();
    else createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return server;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const site = fileURLToPath(new URL("../site", import.meta.url));
  if (!existsSync(site)) throw new Error("www/site is missing: run `npm run build` first");
  const server = await serve(site, { port: Number(process.argv[2] ?? 8000) });
  console.log(`http://localhost:${server.address().port}/`);
}
