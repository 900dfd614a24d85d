# first call: install, start rendering in the background, benches beside it
set -x
date +%T; nvidia-smi -L; nproc; df -h /dev/shm /tmp | cat; free -g | head -2
mount -o remount,size=48G /dev/shm; ulimit -n 65536
mkdir -p /tmp/gpu /tmp/cache /tmp/home; cp -r .gpu/. /tmp/gpu/
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || exit 1
rm -rf /tmp/repo; cp -r . /tmp/repo; rm -rf /tmp/repo/.gpu /tmp/repo/.whl
export PYTHONPATH=/tmp/site:/tmp/repo MUSEKIT_HOME=/tmp/home MUSEKIT_FONTS=/tmp/gpu/fonts OMP_NUM_THREADS=1
cp .gpu/plan.jsonl.xz /tmp/cache/
cd /tmp
cat > /tmp/render.sh <<'XX'
export PYTHONPATH=/tmp/site:/tmp/repo MUSEKIT_HOME=/tmp/home MUSEKIT_FONTS=/tmp/gpu/fonts OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
cd /tmp
python3 -m musekit cache --corpus scores --out /tmp/cache --kinds clips --workers ${W0:-14} --n ${N1:-1600} && touch /tmp/clips1.done
date +%T
nice python3 -m musekit cache --corpus scores --out /tmp/cache --kinds clips --workers ${W1:-11} --n ${N2:-5400} && touch /tmp/clips2.done
date +%T
XX
setsid nohup bash /tmp/render.sh > /tmp/render.log 2>&1 &
sleep 1
OMP_NUM_THREADS=2 timeout ${BENCH_S:-130} python3 -m musekit bench paper --budget ${BUDGET:-110} --results $OUT 2>&1 | tail -30
tail -c 300 /tmp/render.log; find /tmp/cache/clips -name '*.flac' | wc -l; date +%T
