#!/usr/bin/env bash
# model_identity_test.sh PROGRAM ARCH: the logits and routing of a whole model on the fake GPU, in several orders of its
# streams, blocks and warps, have the bits of the CPU's.
set -eu
program=$1
export TF_FAKEGPU_ARCH=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo '{"prompts": [{"input_ids": [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]}, {"input_ids": [7]}, {"input_ids": [3, 9, 200, 11]}]}' > "$folder/ids.json"

evaluate() { "$program" eval --model "$TF_SOURCE_DIR/models/ferry-tiny-v3" --compute f32 --ids "$folder/ids.json" --device "$1" --out "$folder/$1"; }

evaluate cpu
for order in lazy random; do
  for seed in 1 2; do
    TF_FAKEGPU_ORDER=$order TF_FAKEGPU_SEED=$seed evaluate cuda
    cmp "$folder/cpu" "$folder/cuda"
    echo "order $order, seed $seed: the CPU's bits"
  done
done
