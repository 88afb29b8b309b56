#!/bin/sh
# weir beside nginx and haproxy on this machine: ratios of CPU a request, syscalls, memory, the 429 path.
# usage: sh bench/run.sh [--rounds N] [--seconds S] [--only weir,nginx] [--skip refuse,syscalls,memory]
# What is read, and how: bench/load/bench.py. A quiet machine with two cores, please; it takes some minutes.
set -eu
cd "$(dirname "$0")/.."

sh proxy/install.sh build bench
mkdir -p build
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --target weir bench_upstream -j "$(nproc)"
ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)"
exec /usr/bin/python3 bench/load/bench.py --weir build/weir --upstream build/bench_upstream --json build/bench.json "$@"
