#!/bin/sh
# Checks the model of the claim protocol with spin, and that what its store does is what the core does. Prints PASS or FAIL
# for each property; of a model without one of its precautions, PASS says that spin found what goes wrong then.
# usage: sh tests/model/run.sh [--write]       --write: prints claim_table.pml anew from the core
set -u
model=$(cd "$(dirname "$0")" && pwd)
core=$model/../../filters/core
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$work" || exit 1
failed=0

tell() { # NAME STATUS
    if [ "$2" -eq 0 ]; then
        echo "PASS $1"
    else
        echo "FAIL $1"
        tail -n 40 "$work/log"
        failed=1
    fi
}

# Prints how many errors spin found; nothing where it could not look at everything.
errors() { # PROPERTY DEFINES...
    property=$1
    shift
    case $property in
    never_two_at_once) spin_options=-noclaim cc_options=-DSAFETY pan_options= ;;
    *) spin_options= cc_options= pan_options="-a -N $property" ;;
    esac
    rm -f pan*
    # shellcheck disable=SC2086 # lists of words
    {
        spin "$@" $spin_options -a "$model/claim.pml" &&
            cc -w -O2 -DCOLLAPSE -DMEMLIM=1500 $cc_options -o pan pan.c &&
            timeout 100 ./pan -m100000 $pan_options
    } >log 2>&1
    grep -q 'max search depth too small\|out of memory\|Search not completed$' log && ! grep -q 'errors: [1-9]' log && return
    sed -n 's/.*errors: \([0-9]*\)$/\1/p' log
}

holds() { # PROPERTY DEFINES...
    [ "$(errors "$@")" = 0 ]
    tell "$1" $?
}

fails() { # PROPERTY WITHOUT
    found=$(errors "$1" "-D$2" -DLEASE=2)
    [ -n "$found" ] && [ "$found" -gt 0 ]
    tell "$1 does not hold with $2" $?
}

cc -std=gnu11 -o table "$model/table.c" "$core/claim.c" >log 2>&1 && ./table >table.pml
if [ "${1:-}" = --write ]; then
    cp table.pml "$model/claim_table.pml"
    exit
fi
diff -u "$model/claim_table.pml" table.pml >log 2>&1
tell "the model's table is the core's" $?

holds never_two_at_once
holds never_stuck -DLEASE=2
fails never_two_at_once NO_CANCEL
fails never_two_at_once FROM_ANSWER
fails never_two_at_once OLD_ANSWER
fails never_two_at_once ANY_OWNER
fails never_stuck NO_LEASE_END
exit "$failed"
