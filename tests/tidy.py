#!/usr/bin/python3
"""The lines between the rooms, and everything else that holds for the text of the project.
usage: tests/tidy.py [WEIR]      WEIR: the binary, default build/weir; prints PASS or FAIL for each check
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


# -- the files ---------------------------------------------------------------------------------------------------------

def list_files():
    """What is, or would be, committed."""
    found = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"],
                           cwd=ROOT, capture_output=True, text=True)
    if found.returncode == 0:
        files = [f for f in found.stdout.split("\0") if f and os.path.exists(os.path.join(ROOT, f))]
    else:  # no git here: an unpacked archive
        files = []
        for folder, folders, names in os.walk(ROOT):
            folders[:] = [f for f in folders if not re.match(r"build($|-)|\.git$|node_modules$|__pycache__$", f)]
            files += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names]
    return sorted(set(files))


def text(path):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as f:
        return f.read()


FILES = list_files()
SOURCES = [f for f in FILES if re.search(r"\.(c|h|def)$", f)]


def in_rooms(*rooms):
    return [f for f in SOURCES if f.startswith(tuple(r + "/" for r in rooms))]


def code(path):
    """A C file with comments and the insides of strings blanked."""
    def blank(m):
        found = m.group(0)
        return '""' if found[0] == '"' else "' '" if found[0] == "'" else re.sub(r"[^\n]", " ", found)
    comment, string, char = r"/\*.*?\*/|//[^\n]*", r'"(?:\\.|[^"\\\n])*"', r"'(?:\\.|[^'\\\n])*'"
    return re.sub(f"{comment}|{string}|{char}", blank, text(path), flags=re.S)


def found_in(paths, pattern, read=code):
    return [f"{path}:{number}: {line.strip()}" for path in paths
            for number, line in enumerate(read(path).split("\n"), 1) if re.search(pattern, line)]


# -- who may include whom ----------------------------------------------------------------------------------------------

PURE_LIBC = {"assert", "ctype", "endian", "errno", "float", "inttypes", "limits", "math", "pthread", "sched",
             "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string", "strings",
             "sys/types", "arpa/inet", "netinet/in"}
ROOMS = {  # the longest prefix wins: the rooms it may look into, and the libraries it may use
    "filters/core/": (("filters/core/",), r"(xxhash|bloom)\.h|yajl/.*"),
    "filters/": (("filters/", "conf/"), r"(xxhash|bloom)\.h|yajl/.*|openssl/(sha|evp|crypto)\.h|sys/socket\.h"),
    "filters/redis/": (("filters/", "conf/"), r"xxhash\.h|openssl/(sha|evp|crypto)\.h"),
    "conf/": (("conf/",), None),
    "proxy/": (("proxy/", "filters/", "conf/"), None),
    "tests/": (("tests/", "proxy/", "filters/", "conf/"), None),
    "bench/": (("bench/", "proxy/", "filters/", "conf/"), None),
}


def includes(path):
    for number, line in enumerate(text(path).split("\n"), 1):
        found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if found:
            yield f"{path}:{number}", found.group(1) == '"', found.group(2)


def resolve(path, name):
    for base in (os.path.dirname(path), "", "conf", "filters", "filters/core", "filters/redis", "proxy", "proxy/redis"):
        candidate = os.path.normpath(os.path.join(base, name))
        if os.path.exists(os.path.join(ROOT, candidate)):
            return candidate
    return None


@check
def rooms_include_only_what_they_may():
    bad = []
    for path in SOURCES:
        room = max((r for r in ROOMS if path.startswith(r)), key=len, default=None)
        if room is None:
            bad.append(f"{path}: in no room")
            continue
        may_see, libraries = ROOMS[room]
        for where, is_ours, name in includes(path):
            if is_ours:
                target = resolve(path, name)
                if target is None:
                    bad.append(f"{where}: {name} is not there")
                elif not target.startswith(may_see):
                    bad.append(f"{where}: {room} must not see {target}")
            elif libraries is not None and name[:-2] not in PURE_LIBC and not re.fullmatch(libraries, name):
                bad.append(f"{where}: {room} must not use <{name}>")
    return bad


@check
def libraries_stay_in_their_room():
    bad = []
    for path in in_rooms("conf", "filters", "proxy"):
        for where, _, name in includes(path):
            if name.startswith("libfyaml") and path != "conf/node.c":
                bad.append(f"{where}: only conf/node.c knows YAML")
            if re.match(r"h2o|hiredis|ares|picohttpparser", name) and not path.startswith("proxy/"):
                bad.append(f"{where}: only proxy/ knows <{name}>")
            if name.startswith("hiredis") and not path.startswith("proxy/redis/"):
                bad.append(f"{where}: only proxy/redis/ knows <{name}>")
    return bad


CALLS = {  # names of functions, not of members
    "a clock": r"time|clock|clock_gettime|gettimeofday|times|ftime|timespec_get",
    "chance": r"rand|rand_r|random|drand48|lrand48|mrand48|arc4random\w*|getrandom|getentropy|RAND_\w+",
    "sleep": r"sleep|usleep|nanosleep|clock_nanosleep",
    "I/O": r"open|openat|creat|close|read|write|pread|pwrite|readv|writev|fopen|fdopen|freopen|fclose|fread|fwrite"
           r"|fgets|fputs|fputc|puts|putchar|printf|fprintf|vprintf|vfprintf|dprintf|perror|scanf|fscanf|getline|fflush"
           r"|remove|unlink|rename|stat|fstat|mmap|socket|connect|accept4?|bind|listen|send|sendto|sendmsg|recv"
           r"|recvfrom|recvmsg|poll|select|epoll_\w+|ioctl|fcntl|pipe2?|getaddrinfo|getenv|system|popen|fork|execv\w*"
           r"|syslog",
    "threads": r"pthread_create|thrd_create",
}


def calls(kind):
    return rf"(?<![\w.>])({CALLS[kind]})\s*\("


@check
def filters_have_no_clock_chance_io_or_threads():
    return [f"{kind}: {hit}" for kind in CALLS for hit in found_in(in_rooms("filters"), calls(kind))]


@check
def unit_tests_do_not_sleep():
    return found_in(in_rooms("tests/unit"), calls("sleep"))


# -- what is declared is used ------------------------------------------------------------------------------------------

def rows(path):
    """The first words of the rows of a table: MACRO(first, second, ...)."""
    bare = re.sub(r"/\*.*?\*/", "", text(path), flags=re.S)
    return re.findall(r"^[A-Z][A-Z0-9_]*\(\s*(\w+)\s*(?:,\s*(\w+))?", bare, re.M)


def unused_rows(table, prefix):
    used = "\n".join(code(f) for f in in_rooms("proxy", "filters") if not f.endswith(".def"))
    return [f"{table}: {first} is used nowhere" for first, _ in rows(table)
            if not re.search(rf"\b{prefix}{first}\b", used)]


@check
def every_reason_is_used():
    return unused_rows("conf/reasons.def", "WEIR_REASON_")


@check
def every_metric_is_used():
    return unused_rows("conf/metrics.def", "WEIR_METRIC_")


@check
def every_field_is_read_and_described():
    readers = [f for f in in_rooms("proxy", "filters") if not f.endswith(".def")] + ["conf/rules.c"]
    used = "\n".join(code(f) for f in readers if f in FILES)
    bad, count = [], 0
    for table in (f for f in FILES if re.match(r"conf/fields/\w+\.def$", f)):
        for row in re.findall(r"^FIELD\w*\(.*?\)$", re.sub(r"/\*.*?\*/", "", text(table), flags=re.S), re.M | re.S):
            name = re.match(r"FIELD(?:_OF\([^,]*, *|\()(\w+)", row).group(1)
            count += 1
            if name != "version" and not re.search(rf"(\.|->){name}(_ns|_bytes|_tenant|_ppm|_micros)?\b", used):
                bad.append(f"{table}: {name} is read nowhere")
            if not re.search(r'[^"(,\s]"\)$', row):
                bad.append(f"{table}: {name} has no text")
    return bad or ([] if count > 40 else [f"only {count} fields found"])


# -- what is generated -------------------------------------------------------------------------------------------------

WEIR = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "weir"))


def weir(*args):
    return subprocess.run([WEIR, *args], cwd=ROOT, capture_output=True, text=True, timeout=60)


def equals_output(path, option):
    made = weir(option)
    if made.returncode != 0:
        return [f"weir {option} exits {made.returncode}: {made.stderr[-500:]}"]
    return [] if made.stdout == text(path) else [f"{path} is not what weir {option} prints: write it anew"]


@check
def the_schema_is_the_committed_one():
    return equals_output("conf/schema.json", "--print-schema")


@check
def the_reference_is_the_committed_one():
    return equals_output("conf/reference.md", "--print-reference")


@check
def the_default_is_right():
    answer = weir("-c", "conf/weir.yaml", "--check")
    return [] if answer.returncode == 0 else [(answer.stderr or answer.stdout).strip()]


@check
def an_effective_configuration_is_a_configuration():
    once = weir("-c", "conf/weir.yaml", "--print-config").stdout
    again = subprocess.run([WEIR, "-c", "/dev/stdin", "--print-config"], cwd=ROOT, input=once, capture_output=True,
                           text=True, timeout=60)
    return [] if once and again.stdout == once else [f"--print-config of its own output differs: {again.stderr.strip()}"]


# -- the house ---------------------------------------------------------------------------------------------------------

@check
def only_the_rooms_stand_at_the_top():
    allowed = {"conf", "filters", "proxy", "tests", "bench", "helm", "README.md", "CMakeLists.txt", "LICENSE"}
    top = {f.split("/")[0] for f in FILES}
    return sorted(t for t in top if t not in allowed and not t.startswith("."))


@check
def scripts_are_sound():
    bad = []
    for path in FILES:
        if path.endswith(".sh") or path == ".ci/run":
            answer = subprocess.run(["sh", "-n", os.path.join(ROOT, path)], capture_output=True, text=True)
            if answer.returncode != 0:
                bad.append(answer.stderr.strip())
    for room in ("proxy", "tests", "bench"):
        if f"{room}/run.sh" not in FILES:
            bad.append(f"{room}/ has no run.sh")
    return bad


@check
def nothing_is_left_for_later():
    words = "TO" + "DO|FIX" + "ME|XX" + "X"
    kept = [f for f in FILES if re.search(r"\.(c|h|def|py|mjs|js|sh|lua|in|yaml|md|txt)$", f)]
    return found_in(kept, rf"\b({words})\b", read=text)


@check
def headers_are_guarded():
    return [f for f in in_rooms("conf", "filters", "proxy") if f.endswith(".h")
            and not re.search(r"^#ifndef (\w+)\n#define \1\b|^#pragma once", text(f), re.M)]


@check
def the_readme_opens_with_what_one_needs():
    lines = text("README.md").split("\n")
    first_screen = "\n".join(lines[:40])
    bad = [f"README.md: {wanted} is not in the first 40 lines" for wanted in ("sh proxy/run.sh", "sh tests/run.sh")
           if wanted not in first_screen]
    if first_screen.count("curl ") < 3:
        bad.append("README.md: fewer than three curl lines in the first 40")
    known = text("conf/metrics.def")
    for name in sorted(set(re.findall(r"\bweir_[a-z_]+\b", text("README.md")))):
        if not re.search(rf"\b({name}|{name[len('weir_'):]})\b", known):
            bad.append(f"README.md: no metric is called {name}")
    return bad


def main():
    failed = 0
    for one in CHECKS:
        try:
            bad = one()
        except Exception as e:  # a check that cannot be made has failed
            bad = [f"{type(e).__name__}: {e}"]
        print(f"{'FAIL' if bad else 'PASS'} {one.__name__}")
        for line in bad:
            print(f"     {line}")
        failed += bool(bad)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
