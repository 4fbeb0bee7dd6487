#!/usr/bin/env bash
# model_identity_test.sh PROGRAM ARCH: the logits and routing of a whole model on the fake GPU, in several orders of its
# streams, blocks and warps, have in f32 the bits of the CPU's; in bf16 those of one rank for any ranks and chunks.
set -eu
program=$1
export TF_FAKEGPU_ARCH=$2 TF_FAKEGPU_DEVICES=3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo '{"prompts": [{"input_ids": [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]}, {"input_ids": [7]}, {"input_ids": [3, 9, 200, 11]}]}' > "$folder/ids.json"

# evaluate FILE FLAG ..
evaluate() {
  local file=$1
  shift
  "$program" eval --model "$TF_SOURCE_DIR/models/ferry-tiny-v3" --ids "$folder/ids.json" --out "$folder/$file" "$@"
}

evaluate cpu --compute f32 --device cpu
for order in lazy random; do
  for seed in 1 2; do
    TF_FAKEGPU_ORDER=$order TF_FAKEGPU_SEED=$seed evaluate cuda --compute f32 --device cuda
    cmp "$folder/cpu" "$folder/cuda"
    echo "order $order, seed $seed: the CPU's bits"
  done
done

for flags in "--ranks 3" "--ranks 3 --share-gpus" "--ranks 2 --path alltoallv" "--ranks 2 --overlap two_batch" \
    "--ranks 2 --exchange-budget 2650000" "--ranks 3 --share-gpus --overflow capacity --capacity-factor 8 --padded"; do
  evaluate cuda --compute f32 --device cuda $flags
  cmp "$folder/cpu" "$folder/cuda"
  echo "f32, $flags: the CPU's bits"
done

export TF_FAKEGPU_ORDER=random TF_FAKEGPU_SEED=3
evaluate one --compute bf16 --device cuda
for flags in "--prefill-chunk 5" "--ranks 2" "--ranks 3" "--ranks 3 --path alltoallv"; do
  evaluate other --compute bf16 --device cuda $flags
  cmp "$folder/one" "$folder/other"
  echo "bf16, $flags: the bits of one rank"
done
