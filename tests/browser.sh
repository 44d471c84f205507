#!/usr/bin/env bash
# Builds the package in www/ and tests it in Node and in Chromium. Needs rustup's cargo and Node 20 or later; what else it needs it fetches: npm's
# packages (www/package-lock.json), Rust's target for WebAssembly, and Chromium from Debian where none is found (CHROMIUM names one).
# Compares with the native engine: target/debug/examples/score_bits, which it builds if it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v npm >/dev/null; then
  echo "tests/browser.sh: expected Node 20 or later with npm on PATH, found none; install it from https://nodejs.org" >&2
  exit 1
fi

export CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$CHROMIUM" ]; then
  as_root=$([ "$(id -u)" -eq 0 ] || echo sudo)
  $as_root apt-get update -qq
  $as_root apt-get install -y -qq --no-install-recommends chromium
  CHROMIUM=$(command -v chromium)
fi

# After `cargo test --workspace` this is up to date and takes a second.
cargo build --locked --workspace --example score_bits
cd www
npm ci --no-audit --no-fund
npm run build
npm test
