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

# ONNX Runtime, which tests of exported models hold chemtag against, where Python packages can be installed; elsewhere those tests say so and pass.
if [ -z "${CHEMTAG_PYTHON:-}" ]; then
  python="$PWD/target/onnx/bin/python"
  if { [ -x "$python" ] || python3 -m venv target/onnx; } &&
    "$python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 onnxruntime==1.32.0 tokenizers==0.23.3; then
    export CHEMTAG_PYTHON=$python
  fi
fi

# --no-fail-fast: one run names every test that fails, in all crates.
cargo test --locked --workspace --no-fail-fast

./tests/browser.sh
