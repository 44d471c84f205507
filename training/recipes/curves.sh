#!/usr/bin/env bash
# Devel F1 over the pieces of pre-training and over the unlabelled pieces of distillation, in the work folder that reproduce.sh has filled. Every point is a run of its own to the end of
# its schedule, as a model on the way there has not yet come down with its learning rate. Wants a GPU: about twice the time of the longest run for each curve.
#
#     WORK=DIR training/recipes/curves.sh
#
#   PRETRAINING  pieces of the points; "0 86e6 171e6 342e6 684e6 1369e6" if not given. 0 is the encoder before pre-training.
#   UNLABELLED   the same for distillation; "22e6 45e6 90e6 180e6 360e6" if not given
#   CHEMTAG_TRAIN, RECIPES, TRAINING_OPTIONS  as in reproduce.sh
#
# Writes runs/curves/pretraining.svg and unlabelled.svg, and the numbers beside them (.txt). What is done is left as it is.
set -euo pipefail

recipes=$(realpath "${RECIPES:-"$(dirname "${BASH_SOURCE[0]}")/chemtag-small"}")
train=${CHEMTAG_TRAIN:-chemtag-train}
if [[ $train == */* ]]; then train=$(realpath "$train"); fi
read -r -a training_options <<<"${TRAINING_OPTIONS:-}"
cd "${WORK:?is the work folder of reproduce.sh}"
teachers=(runs/twin/teacher-*)
if [[ ! -f ${teachers[0]}/config.json ]]; then
  echo "curves.sh: WORK=$WORK has no runs/twin/teacher-1: run reproduce.sh first" >&2
  exit 1
fi
mkdir -p runs/curves

# stage COMMAND RECIPE OUT OPTION...
stage() {
  local command=$1 recipe=$2 out=$3
  shift 3
  [[ -f $out/config.json ]] || "$train" "$command" --recipe "$recipes/$recipe.toml" --out "$out" "$@" "${training_options[@]}"
}

# draw NAME LABEL RUN...
draw() {
  local name=$1 label=$2
  shift 2
  "$train" curve --label "$label" --out "runs/curves/$name.svg" --run "$@" | tee "runs/curves/$name.txt"
}

runs=()
for pieces in ${PRETRAINING:-0 86e6 171e6 342e6 684e6 1369e6}; do
  encoder=runs/curves/pretrained-$pieces
  if [[ $pieces == 0 ]]; then
    encoder=runs/student-start
  else
    stage pretrain pretrain-student "$encoder" --pieces "$(printf '%.0f' "$pieces")"
  fi
  stage finetune finetune-encoder "runs/curves/encoder-$pieces" --encoder "$encoder"
  runs+=("$pieces=runs/curves/encoder-$pieces")
done
draw pretraining "pieces of pre-training" "${runs[@]}"

runs=()
for pieces in ${UNLABELLED:-22e6 45e6 90e6 180e6 360e6}; do
  stage distill distill "runs/curves/distilled-$pieces" --teacher "${teachers[@]}" --pieces "$(printf '%.0f' "$pieces")"
  stage finetune finetune-gold "runs/curves/student-$pieces" --encoder "runs/curves/distilled-$pieces" \
    --train prepared/train.safetensors --devel prepared/documents.safetensors prepared/sentences.safetensors
  runs+=("$pieces=runs/curves/student-$pieces")
done
draw unlabelled "unlabelled pieces" "${runs[@]}"
