#!/bin/sh
# Installs what is missing, builds weir, and starts it before a small example agent. Ctrl-C drains weir and ends both.
# usage: sh proxy/run.sh [-c FILE]        FILE: a configuration of your own, in place of conf/weir.yaml
set -eu

usage() {
    sed -n '2,3s/^# //p' "$0"
    exit "$1"
}

config=
while [ $# -gt 0 ]; do
    case $1 in
    -c | --config)
        [ $# -ge 2 ] || usage 2
        config=$2
        shift 2
        ;;
    -h | --help) usage 0 ;;
    *) usage 2 >&2 ;;
    esac
done
case $config in
"" | /*) ;;
*) config=$PWD/$config ;;
esac
cd "$(dirname "$0")/.."
config=${config:-conf/weir.yaml}

sh proxy/install.sh build
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --target weir -j "$(nproc)"
effective=$(build/weir -c "$config" --print-config) || exit $?

# The value of the first KEY below the top-level SECTION of the effective configuration.
first() {
    printf '%s\n' "$effective" | awk -v section="$1" -v key="$2" '
        /^[a-z]/ { inside = ($1 == section ":") }
        inside && $1 == key ":" { sub(/^[^:]*:[ ]*/, ""); gsub(/"/, ""); print; exit }'
}
url_of() { # an address to listen on -> a url to ask
    printf 'http://%s\n' "$1" | sed 's,//\*:,//127.0.0.1:,; s,//0\.0\.0\.0:,//127.0.0.1:,; s,//\[::\]:,//127.0.0.1:,'
}
listen=$(first listeners address)
metrics=$(url_of "$(first metrics address)")
agent=$(first upstreams url)
agent_port=$(printf '%s\n' "$agent" | sed -n 's,^http://\(127\.0\.0\.1\|localhost\):\([0-9]*\).*,\2,p')

weir_pid= agent_pid=
stop() {
    trap '' INT TERM
    code=$1
    if [ -n "$weir_pid" ]; then
        kill -TERM "$weir_pid" 2>/dev/null || true # it drains
        wait "$weir_pid" && code=0 || true
    fi
    if [ -n "$agent_pid" ]; then
        kill -TERM "$agent_pid" 2>/dev/null || true
        wait "$agent_pid" 2>/dev/null || true
    fi
    exit "$code"
}
trap 'stop 130' INT
trap 'stop 143' TERM

answers() {
    curl -s -o /dev/null --max-time 2 "$1"
}

# In sessions of their own, so that the terminal's Ctrl-C reaches them once, through stop().
if [ -n "$agent_port" ] && ! answers "http://127.0.0.1:$agent_port/"; then
    setsid /usr/bin/python3 proxy/example/agent.py "$agent_port" &
    agent_pid=$!
fi
setsid build/weir -c "$config" &
weir_pid=$!

tries=0
until curl -sf -o /dev/null --max-time 2 "$metrics/readyz"; do
    tries=$((tries + 1))
    if ! kill -0 "$weir_pid" 2>/dev/null || [ "$tries" -gt 100 ]; then
        echo "weir did not become ready" >&2
        stop 1
    fi
    sleep 0.1
done

case $listen in
unix://*) to="--unix-socket ${listen#unix://} http://weir" ;;
*) to=$(url_of "$listen") ;;
esac
cat <<END

weir listens on ${listen}, before ${agent}${agent_pid:+ (the example agent)}; metrics on $metrics/metrics. To try:

  curl -i -H 'X-Tenant-ID: acme' $to/hello
  curl -N -H 'X-Tenant-ID: acme' -H 'Content-Type: application/json' -d '{"model":"demo","stream":true,"messages":[{"role":"user","content":"hi"}]}' $to/v1/chat/completions
  for i in \$(seq 15); do curl -s -o /dev/null -w '%{http_code} ' -H 'X-Tenant-ID: busy' $to/; done; echo
  curl -i -H 'X-Tenant-ID: acme' -H 'Idempotency-Key: 1' -d hi $to/jobs     # and again: replayed, the agent sees it once

Ctrl-C ends it. The access log follows.

END
code=0
wait "$weir_pid" || code=$?
weir_pid=
stop "$code"
