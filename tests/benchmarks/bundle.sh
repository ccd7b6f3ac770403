#!/bin/bash
# Collect what a GPU machine without internet lacks, as wheels for its Python.
#
#   tests/benchmarks/bundle.sh [PYTHON_VERSION] [FOLDER]        (here; 3.12 and .whl)
#   tests/benchmarks/bundle.sh install [FOLDER]                 (there, before make gpu)
#
# torch, torchaudio, scipy, matplotlib and tensorboard are taken to be there.
set -euo pipefail

packages="speechbrain hyperpyyaml ruamel.yaml<0.19 sentencepiece soundfile cffi pycparser tqdm
lhotse audioread cytoolz intervaltree tabulate babel fonttools torchopt optree graphviz higher"

if [ "${1:-}" = install ]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --upgrade --target "${2:-.whl}/site" "${2:-.whl}"/*.whl
    echo "export PYTHONPATH=$(realpath "${2:-.whl}/site")"
    exit
fi

options="--quiet --no-deps --only-binary=:all: --implementation cp"
options+=" --python-version ${1:-3.12} --dest ${2:-.whl}"
for glibc in 2_17 2_24 2_27 2_28 2_31 2_34 2_35; do
    options+=" --platform manylinux_${glibc}_x86_64"
done
# shellcheck disable=SC2086  # both are lists
python3 -m pip download $options --platform manylinux2014_x86_64 $packages
du --summarize --human-readable "${2:-.whl}"
