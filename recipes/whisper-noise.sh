#!/bin/sh
# The test sets of recipes/whisper-noise.yaml: a manifest named test.jsonl as it is and in white noise and babble at four levels.
#   sh recipes/whisper-noise.sh data/librispeech/test.jsonl data/librispeech [ARKASR]
set -eu
test=$1 folder=$2 arkasr=${3:-arkasr}
degrade() {
    "$arkasr" data degrade "$test" --output "$folder/$1" --set "noise={probability: 1, kinds: [$2], snr_db: [$3, $3]}"
}
"$arkasr" data degrade "$test" --output "$folder/clean" --set "level={probability: 0}"
for snr in 20 10 5 0; do
    degrade "white-$snr" white "$snr"
    degrade "babble-$snr" babble "$snr"
done
