#!/usr/bin/env bash
# The default model from all-MiniLM-L6-v2, text and corpora, by chemtag-train alone: vocabulary, encoders, a twin that learns from the train sets and gives the temperature, the final
# model that learns from train and devel sets, and its scores on the test sets. docs/training.md tells what lies where and how long each stage takes.
#
#     START=DIR TEXT=DIR CORPORA=DIR WORK=DIR training/recipes/reproduce.sh
#
#   START    folder of all-MiniLM-L6-v2, or (built with --features hub) hub:sentence-transformers/all-MiniLM-L6-v2
#   TEXT     folder with chemistry.txt and general.txt, a document on each line
#   CORPORA  folder with chemdner/, bc5cdr_chem/, matscholar/, sofc_exp/, each with train, devel and test
#   WORK     folder for all that is made: prepared/, runs/ and at last model/ and chemtag-small.int8.safetensors
#
# Needs bash 4.4. These may be set, too:
#   CHEMTAG_TRAIN     the program; `chemtag-train` on PATH if not given
#   RECIPES           folder of the stages' recipes, which hold every setting; chemtag-small/ beside this file if not given
#   TRAINING_OPTIONS  more options of all training stages, such as "--gpus 8"
#   TEMPERATURE       of the exported model; what the twin's calibration says if not given (1: as trained, as chemtag-small 0.2.0 is)
#
# Start it again after an interruption: what is done is left as it is, and the stage that was interrupted goes on. To do a stage anew, with other settings, remove what it wrote and
# what was made from that.
set -euo pipefail

recipes=$(realpath "${RECIPES:-"$(dirname "${BASH_SOURCE[0]}")/chemtag-small"}")
train=${CHEMTAG_TRAIN:-chemtag-train}
# Relative paths are the caller's.
if [[ $train == */* ]]; then train=$(realpath "$train"); fi
read -r -a training_options <<<"${TRAINING_OPTIONS:-}"

fail() {
  echo "reproduce.sh: $*" >&2
  exit 1
}

for variable in START TEXT CORPORA WORK; do
  [[ -n ${!variable:-} ]] || fail "$variable is not set; the head of $0 says what it is"
done
command -v "$train" >/dev/null || fail "there is no program $train: build it with cargo build --release -p chemtag-training, and name it by CHEMTAG_TRAIN"
for file in chemistry.txt general.txt; do
  [[ -f $TEXT/$file ]] || fail "TEXT=$TEXT has no $file: the text is expected there, a document on each line"
done
for corpus in chemdner/{train,devel,test}.jsonl bc5cdr_chem/{train,devel,test}.jsonl matscholar/{train,devel,test}.conll sofc_exp/{train,devel,test}.conll; do
  [[ -f $CORPORA/$corpus ]] || fail "CORPORA=$CORPORA has no $corpus: the corpus is expected there, in the form that CONTRIBUTING.md tells"
done
start=$START
if [[ $start != hub:* ]]; then
  [[ -f $start/config.json ]] || fail "START=$start has no config.json: it must be the folder of all-MiniLM-L6-v2, or hub:sentence-transformers/all-MiniLM-L6-v2"
  start=$(realpath "$start")
fi
text=$(realpath "$TEXT")
corpora=$(realpath "$CORPORA")

# Recipes name paths in the work folder.
mkdir -p "$WORK/prepared" "$WORK/runs/evaluation"
cd "$WORK"
ln -sfn "$text" text
ln -sfn "$corpora" corpora

# The `out` of a recipe.
out_of() {
  sed -n 's/^out = "\(.*\)"$/\1/p' "$recipes/$1.toml"
}

# stage COMMAND RECIPE [--out OUT OPTION...]: what the recipe, with these options in its place, writes to its `out`, unless that is there. config.json is the last file of a model's folder;
# a folder of labels, which has none, gets an empty file.
stage() {
  local command=$1 recipe=$2 out
  shift 2
  if [[ ${1:-} == --out ]]; then out=$2; else out=$(out_of "$recipe"); fi
  if [[ -f $out || -f $out/config.json || -f $out/complete ]]; then
    echo "=== $out is there"
    return
  fi
  echo "=== $command $recipe -> $out"
  local from=$SECONDS
  case $command in
    pretrain | finetune | distill) "$train" "$command" --recipe "$recipes/$recipe.toml" "$@" "${training_options[@]}" ;;
    *) "$train" "$command" --recipe "$recipes/$recipe.toml" "$@" ;;
  esac
  if [[ $command == label ]]; then : >"$out/complete"; fi
  echo "=== $((SECONDS - from)) s"
}

# report COMMAND RECIPE FILE: what the command prints, in the file.
report() {
  local command=$1 recipe=$2 file=$3
  if [[ ! -f $file ]]; then
    "$train" "$command" --recipe "$recipes/$recipe.toml" >"$file.part"
    mv "$file.part" "$file"
  fi
  echo "=== $file"
  cat "$file"
}

# Encoders. CPU: minutes; pre-training wants a GPU.
stage vocab vocab
stage start start-student --out "$(out_of start-student)" --from "$start"
for recipe in "$recipes"/prepare-text-*.toml; do
  stage prepare-text "$(basename "$recipe" .toml)"
done
stage pretrain pretrain-student
stage start start-teacher
stage pretrain pretrain-teacher

# Annotated corpora. CPU: a minute.
for set in train{,-materials} final{,-materials} documents sentences; do
  stage prepare "prepare-$set"
done

# gold RECIPE: the file that a recipe for the final model learns from, or, for the twin, the one of the same kind without the devel sets.
gold() {
  local train
  train=$(sed -n 's/^train = \["\(.*\)"\]$/\1/p' "$recipes/$1.toml")
  if [[ $name == twin ]]; then train=${train/prepared\/final/prepared\/train}; fi
  echo "$train"
}

# pupil NAME [--devel FILE...]: teachers, which learn side by side, and the student that they teach, in runs/NAME. Wants a GPU.
pupil() {
  local name=$1 teachers=() processes=() recipe teacher process
  shift
  for recipe in "$recipes"/finetune-teacher-*.toml; do
    recipe=$(basename "$recipe" .toml)
    teacher=runs/$name/${recipe#finetune-}
    stage finetune "$recipe" --out "$teacher" --train "$(gold "$recipe")" "$@" &
    processes+=($!)
    teachers+=("$teacher")
  done
  for process in "${processes[@]}"; do wait "$process"; done
  stage label label --out "runs/$name/labels" --teacher "${teachers[@]}"
  stage distill distill --out "runs/$name/distilled" --teacher "${teachers[@]}" --labels "runs/$name/labels"
  stage finetune finetune-gold --out "runs/$name/student" --encoder "runs/$name/distilled" --train "$(gold finetune-gold)" "$@"
}

# Side by side, since one run alone leaves a GPU waiting for the CPU. What still runs when the script ends early is ended, too.
trap 'jobs -p | xargs -r kill 2>/dev/null || true' EXIT
pupil twin --devel "$(out_of prepare-documents)" "$(out_of prepare-sentences)" &
twin=$!
pupil final
wait "$twin"
report calibrate calibrate runs/evaluation/calibration.txt

temperature=${TEMPERATURE:-$(sed -n 's/^temperature \([0-9.]*\);.*/\1/p' runs/evaluation/calibration.txt)}
[[ -n $temperature ]] || fail "runs/evaluation/calibration.txt tells no temperature: remove it and start again"
stage export export --out "$(out_of export)" --temperature "$temperature"

# Each test set once, with the model that is exported.
for recipe in "$recipes"/evaluate-*.toml; do
  name=$(basename "$recipe" .toml)
  report evaluate "$name" "runs/evaluation/${name#evaluate-}.txt"
done
