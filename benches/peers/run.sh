#!/usr/bin/env bash
# chemtag's integer engine beside other programs that run the same weights on the CPU: ONNX Runtime, rten and PyTorch in 8-bit integers, OpenVINO
# in floats. Sets them up in FOLDER (9 GB, most of it PyTorch; once), measures, and prints the medians of all rounds that FOLDER holds so far.
#
#     benches/peers/run.sh FOLDER [--model DIR] [--lengths FILE.json] [--threads 1,2] [--rounds N] [--kernel NAME]
#
# A round runs every program on every number of threads, each in a process of its own, the order turned from round to round; about three
# minutes. Other work on the machine spoils it. --rounds 0 sets up alone. --lengths: {"lengths": [...]}, word pieces of sentences.
# Needs Linux, Python 3.11 or later with venv, a Rust toolchain and, for the set-up, a network.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

(($# > 0)) && [[ $1 != -* ]] || usage
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
model=$root/models/chemtag-small lengths=$root/src/workload/lengths.json threads=1,2 rounds=3 kernels=
while (($# > 1)); do
  case $1 in
    --model) model=$(realpath "$2") ;;
    --lengths) lengths=$(realpath "$2") ;;
    --threads) threads=$2 ;;
    --rounds) rounds=$2 ;;
    --kernel) kernels=$2 ;;
    *) usage ;;
  esac
  shift 2
done
(($# == 0)) || usage

# What is there already is kept: a name with what it was made of.
python=$folder/venv/bin/python
if ! cmp -s "$here/requirements.txt" "$folder/installed.txt"; then
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$folder/installed.txt"
fi
made_of=$(cat "$model/model.safetensors" "$here/export.py" | sha256sum)
if [[ $made_of != "$(cat "$folder/exported.txt" 2>/dev/null)" ]]; then
  "$python" -W ignore "$here/export.py" "$model" "$folder/models"
  echo "$made_of" > "$folder/exported.txt"
fi
cargo build --quiet --release --locked --manifest-path "$here/rten/Cargo.toml" --target-dir "$folder/rten"
ours=$(cargo bench --quiet --locked --manifest-path "$root/Cargo.toml" --bench int8 --no-run --message-format json |
  "$python" -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("target", {}).get("name") == "int8"][-1])')
"$python" "$here/workloads.py" "$lengths" "$model" "$folder/workloads.json"

jobs=()
IFS=, read -ra numbers <<< "$threads"
for number in "${numbers[@]}"; do
  jobs+=("$ours --model $model --lengths $lengths --threads $number --seconds 2 ${kernels:+--kernels $kernels}")
  jobs+=("$folder/rten/release/rten-peer $folder/models/int8-plain.onnx $folder/workloads.json $number")
  for engine in onnxruntime-int8 pytorch-int8 openvino-f32; do
    jobs+=("$python -W ignore $here/engines.py $engine $folder $number")
  done
done
# Waits, at most 20 s, for a second in which nothing else runs.
idle_ticks() { awk '/^cpu / {print $5}' /proc/stat; } # a hundred a second and core
wait_for_quiet() {
  local before second
  for ((second = 0; second < 20; second++)); do
    before=$(idle_ticks)
    sleep 1
    if (($(idle_ticks) - before >= 90 * $(nproc))); then return; fi
  done
  echo "something else is running: its times will be too long" >&2
}

touch "$folder/measured.jsonl"
done_before=$(grep -c '"round": "end"' "$folder/measured.jsonl" || true)
for ((round = done_before; round < done_before + rounds; round++)); do
  for ((i = 0; i < ${#jobs[@]}; i++)); do
    job=${jobs[$(((i + 3 * round) % ${#jobs[@]}))]}
    echo "round $((round + 1)): $(basename "${job%% *}") ${job#* }" >&2
    wait_for_quiet
    $job >> "$folder/measured.jsonl"
  done
  echo '{"round": "end"}' >> "$folder/measured.jsonl"
done
((rounds == 0)) || "$python" "$here/report.py" "$folder/measured.jsonl"
