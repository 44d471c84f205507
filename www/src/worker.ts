/** The worker of browsers. */

import type { Order } from "./protocol.js";
import { serve } from "./serve.js";

serve({
  send: (report) => postMessage(report),
  receive: (handler) => addEventListener("message", (event: MessageEvent<Order>) => handler(event.data)),
});
