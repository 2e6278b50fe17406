#!/usr/bin/env bash
# What a GPU brings, and whether all works on one, in a single command of less than 9 minutes that needs no network:
#
#   bash benchmarks/gpu.sh [--device cuda] [--out DIR] [--cells FILE] [--seconds 530] [--tiny]
#
# Beforehand, where the shared cells are: python benchmarks/gpu_presets.py pack, which writes out/gpu_cells.npz (at most
# 36 MB; the checkout has 23 MB). Where this file is missing, the presets are trained on drawn cells.
#
# The machine needs this checkout, with src/ and tests/ (sam_bloodcell need not be installed), that file, and a python3,
# or $PYTHON, with a torch that is built for its GPU and the packages listed in gpu_check.py. That is what
# `pip install sam-bloodcell pytest` brings, less xgboost and skops. Wheels that its Python lacks (often segment-anything
# alone) can be carried in a folder and installed there: pip install --no-index --no-deps --find-links FOLDER NAME.
#
# The parts: 1. the tests marked cuda; 2. images/s of vit_b, vit_l and vit_h; 3. batches that do not fit into the
# memory; 4. both papers' presets, for as many epochs as the remaining time allows. Each part has a limit of its own, and
# one that fails does not stop the others; the exit status is then 1.
#
# DIR (default: $OUT, or else out/gpu) holds at the end: gpu.md, tables to paste into docs/scale.md and docs/results/published.md;
# gpu.log; features.npz (for gpu_presets.py score) and histories.csv; bc-sam.ckpt and dorl.ckpt (about 45 and 150 MB),
# from which the same command with the same DIR goes on with the presets.
#
# --device cpu --tiny tries every part on a machine without a GPU, in less than 3 minutes.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3} device=cuda out=${OUT:-out/gpu} cells=out/gpu_cells.npz seconds=530 tiny=()
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --cells) cells=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --tiny) tiny=(--tiny); shift ;;
        *) echo "gpu.sh: unknown option $1. Fix: see the head of $0." >&2; exit 2 ;;
    esac
done
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
mkdir -p "$out" || exit 2
page=$out/gpu.md log=$out/gpu.log failed=0
: > "$log"
echo "# bash benchmarks/gpu.sh, $(git log -1 --format=%h 2> /dev/null || echo "commit unknown")" | tee "$page"

# part TITLE SECONDS COMMAND...: the command's output goes into the page, its complaints into the log.
part() {
    local title=$1 limit=$2 start=$SECONDS said=$out/part.log status why
    shift 2
    printf '\n## %s\n\n' "$title" | tee -a "$page"
    timeout -k 10 "$limit" "$@" 2> "$said" | tee -a "$page"
    status=${PIPESTATUS[0]}
    { echo "== $title"; cat "$said"; } >> "$log"
    if [ "$status" -ne 0 ]; then
        failed=1 why="with exit status $status"
        [ "$status" -ne 124 ] || why="at its limit of $limit s"
        printf '\n**Failed** %s. It said at the end:\n\n~~~text\n%s\n~~~\n' "$why" "$(tail -n 12 "$said")" |
            tee -a "$page"
    fi
    rm -f "$said"
    printf '\n(%s s)\n' $((SECONDS - start)) | tee -a "$page"
    return "$status"
}

part "Machine" 90 "$python" benchmarks/gpu_check.py --device "$device" || exit 2

# Without the options of pyproject.toml: other versions of packages may warn, and plugins may be missing.
mapfile -t marked < <(grep -rl "mark\.cuda" tests --include "test_*.py")
part "Tests on the GPU" 150 "$python" -m pytest -q -rfE --tb=short -m cuda --gpu "$device" -o addopts= \
    --import-mode=importlib -W default -p no:cacheprovider --disable-warnings --durations=5 "${marked[@]}"
part "Speed" 130 "$python" benchmarks/gpu_speed.py speed --device "$device" "${tiny[@]}"
part "Batches that do not fit" 60 "$python" benchmarks/gpu_speed.py memory --device "$device" "${tiny[@]}"
left=$((seconds - SECONDS))
part "The papers' presets" "$left" "$python" benchmarks/gpu_presets.py train --device "$device" --out "$out" \
    --cells "$cells" --seconds $((left - 20)) "${tiny[@]}"
printf '\nAll parts: %s s. Page: %s\n' "$SECONDS" "$page"
exit "$failed"
