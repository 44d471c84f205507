#!/usr/bin/env bash
# Every test of chemtag: unit tests, tests in tests/ and the examples in the documentation, of all crates of the workspace; then the package for
# browsers and Node, in both. Works from any current directory. Needs rustup's cargo and Node; the pinned toolchain (rust-toolchain.toml), the
# dependencies (Cargo.lock, www/package-lock.json) and Chromium are fetched at the first run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v cargo >/dev/null; then
  echo "tests/run-all.sh: expected cargo on PATH, found none; install Rust from https://rustup.rs" >&2
  exit 1
fi

# --no-fail-fast: one run names every test that fails, in all crates.
cargo test --locked --workspace --no-fail-fast

./tests/browser.sh
