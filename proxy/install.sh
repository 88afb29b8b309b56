#!/bin/sh
# Installs what is missing of the Debian packages that weir needs, and nothing when nothing is.
# usage: sh proxy/install.sh [build] [test] [bench]        as root, or where sudo is to be had
set -eu

BUILD="gcc libc6-dev cmake make pkg-config libh2o-evloop-dev libbloom-dev libxxhash-dev libssl-dev zlib1g-dev
    libfyaml-dev libhiredis-dev python3 curl ca-certificates"
TEST="clang llvm libclang-rt-14-dev libcmocka-dev libyajl-dev python3-pytest prometheus spin redis-server chromium
    golang-go golang-github-masterminds-sprig-dev golang-k8s-sigs-yaml-dev golang-github-xeipuuv-gojsonschema-dev
    mmdebstrap buildah umoci bubblewrap busybox python3-yaml dpkg-dev file mandoc groff-base systemd"
BENCH="nginx-light haproxy wrk strace"

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# A Node that is there already, from wherever, is as good as Debian's.
has_node() {
    command -v npm >/dev/null 2>&1 &&
        major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) && [ "$major" -ge 18 ]
}

wanted=
for purpose in "${@:-build}"; do
    case $purpose in
    build) wanted="$wanted $BUILD" ;;
    test)
        wanted="$wanted $TEST"
        has_node || wanted="$wanted nodejs npm"
        ;;
    bench) wanted="$wanted $BENCH" ;;
    *)
        echo "usage: sh proxy/install.sh [build] [test] [bench]" >&2
        exit 2
        ;;
    esac
done

missing=
for package in $wanted; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root() { "$@"; }
elif command -v sudo >/dev/null 2>&1; then
    as_root() { sudo "$@"; }
else
    echo "These Debian packages are missing; install them as root:$missing" >&2
    exit 1
fi

# The servers that the bench compares with are for the bench alone: installing them starts none. A policy that is there
# already is the machine's own and stays.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
had_policy=yes
clean_up() {
    rm -f "$log"
    [ "$had_policy" = yes ] || as_root rm -f "$policy"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
if [ ! -e "$policy" ]; then
    had_policy=no
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
fi

apt_install() {
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install $missing >>"$log" 2>&1
}

echo "installing from Debian:$missing"
# The package lists are fetched only when what is here does not do.
if ! apt_install; then
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update >>"$log" 2>&1 || true
    if ! apt_install; then
        tail -n 30 "$log" >&2
        echo "apt-get could not install:$missing" >&2
        exit 1
    fi
fi

# nor do they start at the next boot
if [ -d /run/systemd/system ]; then
    for service in nginx haproxy; do
        case " $missing " in
        *" $service"*) as_root systemctl -q disable "$service" >/dev/null 2>&1 || true ;;
        esac
    done
fi
