/** Renews docs/demo.png, the picture of the demo in README.md: `npm run build && npm run screenshot`. CHROMIUM names the browser. */

import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { serve } from "./serve.mjs";

const www = fileURLToPath(new URL("../", import.meta.url));
const server = await serve(`${www}site`);
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1 });
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.locator("#rows tr").first().waitFor();
  await page.screenshot({ path: `${www}../docs/demo.png` });
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
