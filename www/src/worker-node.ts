/** The worker of Node. */

import { parentPort } from "node:worker_threads";

import type { Order } from "./protocol.js";
import { serve } from "./serve.js";

serve({
  send: (report) => parentPort?.postMessage(report),
  receive: (handler) => parentPort?.on("message", (order: Order) => handler(order)),
});
