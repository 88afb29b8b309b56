"""OpenMetrics 1.0, read by its grammar; and the requests that its buckets name, by their trace ids."""
import math
import re
import time

import pytest

from harness import base_config, get, reply, request, wait_until
from support import Caller, in_parallel, routes

ACCEPT = [("Accept", "application/openmetrics-text; version=1.0.0; charset=utf-8")]
TRACED = "weir_request_duration_seconds"

NAME, LABEL = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r"[a-zA-Z_][a-zA-Z0-9_]*"
PAIR = rf'{LABEL}="(?:[^"\\\n]|\\["\\n])*"'
LABELS = rf"\{{(?:{PAIR}(?:,{PAIR})*)?\}}"
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?|Inf)|NaN"
STAMP = r"\d+(?:\.\d+)?"
SAMPLE = re.compile(rf"({NAME})({LABELS})? ({NUMBER})(?: ({STAMP}))?(?: # ({LABELS}) ({NUMBER})(?: ({STAMP}))?)?")
SUFFIXES = {"counter": ("_total", "_created"), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum", "_created")}


class OpenMetrics:
    """The text, read strictly. kinds: {family: type}; samples: {(name, labels): value}; exemplars: {(name, labels):
    (trace id, seconds, Unix time)}, where labels are a frozenset of pairs."""

    def __init__(self, text):
        self.kinds, self.units, self.samples, self.exemplars = {}, {}, {}, {}
        assert text.endswith("\n# EOF\n") and "\r" not in text
        family, order = None, []
        for line in text.removesuffix("# EOF\n").splitlines():
            if m := re.fullmatch(rf"# (HELP|TYPE|UNIT) ({NAME}) ((?:[^\"\\]|\\[n\"\\])+)", line):
                if m[2] != family:
                    assert m[2] not in order, f"{m[2]} stands in two places"
                    family = m[2]
                    order.append(family)
                self._describe(m[1], family, m[3])
            else:
                assert (m := SAMPLE.fullmatch(line)), f"no line of OpenMetrics: {line!r}"
                assert family and m[1].startswith(family) and m[1][len(family):] in SUFFIXES[self.kinds[family]], line
                self._take(family, m)
        self._check_histograms()

    def _describe(self, what, family, value):
        if what == "TYPE":
            assert family not in self.kinds and value in SUFFIXES and not family.endswith(("_total", "_bucket")), (family, value)
            self.kinds[family] = value
        elif what == "UNIT":
            assert family.endswith("_" + value), (family, value)
            self.units[family] = value

    def _take(self, family, m):
        pairs = [pair for pair in re.findall(rf'({LABEL})="((?:[^"\\]|\\.)*)"', m[2] or "")]
        assert len(dict(pairs)) == len(pairs), m[0]
        key = (m[1], frozenset(pairs))
        assert key not in self.samples, f"twice: {m[0]}"
        self.samples[key] = float(m[3])
        assert m[4] is None, "weir gives no time of a sample"
        if self.kinds[family] != "gauge":
            assert self.samples[key] >= 0 and math.isfinite(self.samples[key]), m[0]
        if m[5] is not None:
            assert m[1].endswith(("_bucket", "_total")), f"no exemplar may stand here: {m[0]}"
            given = dict(re.findall(rf'({LABEL})="([^"]*)"', m[5]))
            assert sum(len(k) + len(v) for k, v in given.items()) <= 128 and list(given) == ["trace_id"], m[0]
            self.exemplars[key] = (given["trace_id"], float(m[6]), float(m[7]))

    def _check_histograms(self):
        for family in (f for f, kind in self.kinds.items() if kind == "histogram"):
            series = {}
            for (name, labels), value in self.samples.items():
                if name == family + "_bucket":
                    le = dict(labels)["le"]
                    assert le == "+Inf" or re.fullmatch(r"\d+\.\d+|\de-\d\d", le), f"{le} is no canonical number"
                    rest = frozenset(pair for pair in labels if pair[0] != "le")
                    series.setdefault(rest, []).append((float(le), value, self.exemplars.get((name, labels))))
            for rest, buckets in series.items():
                assert [b[0] for b in buckets] == sorted({b[0] for b in buckets}) and buckets[-1][0] == math.inf
                assert [b[1] for b in buckets] == sorted(b[1] for b in buckets)
                assert buckets[-1][1] == self.samples[family + "_count", rest]
                assert (family + "_sum", rest) in self.samples
                for (below, *_), (le, _, exemplar) in zip([(-math.inf,), *buckets], buckets):
                    assert exemplar is None or below < exemplar[1] <= le, (below, le, exemplar)

    def shown(self, family=TRACED, **labels):
        """[(trace id, seconds, Unix time)] of a family's buckets that have these labels."""
        return [exemplar for (name, have), exemplar in self.exemplars.items()
                if name == family + "_bucket" and labels.items() <= dict(have).items()]

    def sum(self, name, **labels):
        return sum(v for (n, have), v in self.samples.items() if n == name and labels.items() <= dict(have).items())


def open_metrics(w):
    r = w.ask("/metrics", headers=ACCEPT)
    assert r.status == 200 and r.header("Content-Type").startswith("application/openmetrics-text")
    return OpenMetrics(r.body.decode())


def traced(trace_id):
    return [("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01")]


def counted(w, count):
    """What is scraped once so many requests have ended."""
    w.wait_metric("weir_requests_total", count)
    w.wait_metric("weir_in_flight", 0)
    return open_metrics(w)


def ids(first, count):
    return [f"{n:032x}" for n in range(first, first + count)]


@pytest.mark.parametrize("text", [
    "# TYPE a counter\na 1\n# EOF\n", "# TYPE a gauge\na 1", '# TYPE a gauge\na{b="x"y"} 1\n# EOF\n',
    '# TYPE a gauge\na 1 # {trace_id="x"} 1 1\n# EOF\n', "# TYPE a gauge\na 1\na 1\n# EOF\n",
    "# TYPE a gauge\n# TYPE b gauge\nb 1\n# HELP a x\na 1\n# EOF\n",
    '# TYPE a histogram\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n\n# EOF\n',
    '# TYPE a histogram\na_bucket{le="1"} 1\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n# EOF\n',
    '# TYPE a histogram\na_bucket{le="1.0"} 1 # {trace_id="x"} 2 1\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n# EOF\n',
    f'# TYPE a histogram\na_bucket{{le="+Inf"}} 1 # {{trace_id="{"x" * 121}"}} 2 1\na_count 1\na_sum 1\n# EOF\n'])
def test_this_reader_takes_no_other_text(text):
    with pytest.raises(AssertionError):
        OpenMetrics(text)


def test_a_bucket_names_the_request_that_fell_in_it(start_weir, start_upstream):
    up = start_upstream(script=[0.03, reply(200, b"ok")])
    config = base_config(up.port)
    config["listeners"]["in"]["routes"] = routes(("/a", {}), ("/b", {}))
    w = start_weir(config)
    wanted = {"/a": "0af7651916cd43dd8448eb211c80319c", "/b": "4bf92f3577b34da6a3ce929d0e0e4736"}
    began = time.time()
    for path, trace_id in wanted.items():
        assert get(w.port, path, traced(trace_id)).status == 200
    ended = time.time()
    text = counted(w, 2)
    for path, trace_id in wanted.items():
        (seen, seconds, at), = text.shown(listener="in", route=path)
        assert seen == trace_id
        assert seconds >= 0.03 and seconds == pytest.approx(text.sum(TRACED + "_sum", route=path), abs=1e-9)
        assert began + 0.02 < at < ended + 0.01, (began, at, ended)
    assert set(name for name, _ in text.exemplars) == {TRACED + "_bucket"}


def test_a_trace_that_weir_began_is_the_one_that_it_logs(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    get(w.port)
    (seen, _, _), = counted(w, 1).shown()
    assert seen == w.wait_log()["trace_id"] == up.requests[0].header("traceparent")[3:35]


def test_the_plain_format_has_none(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    get(w.port, "/", traced("0af7651916cd43dd8448eb211c80319c"))
    assert counted(w, 1).shown()
    for accept in ([], [("Accept", "text/plain")], [("Accept", "application/openmetrics-text;q=0.1,text/plain")]):
        text = w.ask("/metrics", headers=accept).body.decode()
        assert f"{TRACED}_bucket" in text and "trace_id" not in text and " # " not in re.sub(r"(?m)^# .*$", "", text)


def test_without_traces_there_are_none(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, correlation={"traceparent": False}))
    for _ in range(3):
        get(w.port, "/", traced("0af7651916cd43dd8448eb211c80319c"))
    text = counted(w, 3)
    assert text.sum(TRACED + "_count") == 3 and not text.exemplars


def test_what_weir_refuses_is_named_too(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, limits={"one": {"algorithm": "sliding_window", "limit": 1, "window": "1h"}},
                               route={"limits": ["one"]}))
    with Caller(w.port) as caller:
        assert caller.get("/").status == 200
        first = {seen for seen, _, _ in counted(w, 1).shown()}
        refused = f"{0xfeed:032x}"

        def is_named():
            """A bucket shows one request of each second."""
            assert caller.get("/", traced(refused)).status == 429
            return refused in {seen for seen, _, _ in open_metrics(w).shown()}
        wait_until(is_named, "a refused request's trace", every=0.2)
    assert first != {refused}


def test_a_later_request_takes_the_place(start_weir, start_upstream):
    """Within the same second the first one stays; after that it makes room."""
    w = start_weir(base_config(start_upstream().port))
    seen = []
    with Caller(w.port) as caller:
        def is_replaced():
            for trace_id in ids(1 + len(seen), 5):
                seen.append(trace_id)
                assert caller.get("/", traced(trace_id)).status == 200
            shown = {}
            for trace_id, seconds, at in open_metrics(w).shown():
                shown[trace_id] = at
                first.setdefault(seconds, (trace_id, at))
            return len(set(first.values())) > 1 and max(shown.values()) - min(at for _, at in first.values()) >= 1
        first = {}
        wait_until(is_replaced, "another trace in its place", every=0.1)
    assert {trace_id for trace_id, _ in first.values()} <= set(seen)


def test_many_workers_scraped_while_they_count(start_weir, start_upstream):
    """Each exemplar is one of the requests made, whole; and no number is another than without them."""
    w = start_weir(base_config(start_upstream().port, server={"workers": 3}))
    texts = []

    def work(n):
        if n == 0:
            for _ in range(20):
                texts.append(open_metrics(w))
            return
        with Caller(w.port) as caller:
            for trace_id in ids(1000 * n, 100):
                assert caller.get("/", traced(trace_id)).status == 200

    in_parallel(5, work)
    texts.append(counted(w, 400))
    known = {trace_id for n in range(1, 5) for trace_id in ids(1000 * n, 100)}
    assert texts[-1].shown() and {seen for text in texts for seen, _, _ in text.shown()} <= known
    assert texts[-1].sum(TRACED + "_count") == texts[-1].sum("weir_requests_total") == 400


def test_bounds_and_what_stands_against_them(start_weir, start_upstream):
    up = start_upstream(script=[0.2, reply(200, b"ok")])
    config = base_config(up.port, server={"max_connections": 123, "max_buffered": "32MiB"})
    w = start_weir(config)
    assert w.metric("weir_connections_max") == 123
    assert w.metric("weir_buffered_max_bytes") == 32 << 20
    assert w.metric("weir_buffered_bytes") == 0
    limits = [v for (name, _), v in w.metrics().items() if name == "weir_memory_limit_bytes"]
    assert limits == [] or limits[0] > 1 << 20, "absent where there is none"
    config["server"]["max_connections"] = 77
    w.reload(config)
    assert w.metric("weir_connections_max") == 77


def test_bytes_that_are_held(start_weir, start_upstream, connect):
    w = start_weir(base_config(start_upstream().port))
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Content-Length", "100000")]) + b"x" * 50000)
        w.wait_metric("weir_buffered_bytes", lambda v: v > 0)
    w.wait_metric("weir_buffered_bytes", 0)


def test_a_spent_retry_budget_is_counted_as_it_is_logged(start_weir, start_upstream):
    up = start_upstream(script=[reply(503, b"no")])
    config = base_config(up.port, agent={"retry": {"budget": "0%", "methods": ["GET"], "backoff": {"base": "1ms", "max": "1ms"}}})
    config["upstreams"]["other"] = {"url": "http://127.0.0.1:1", "retry": {}, "breaker": False}
    config["upstreams"]["once"] = {"url": "http://127.0.0.1:1", "retry": False, "breaker": False}
    w = start_weir(config)
    name = "weir_retry_budget_exhausted_total"
    assert {dict(labels)["upstream"]: v for (n, labels), v in w.metrics().items() if n == name} == {"agent": 0, "other": 0}
    with Caller(w.port) as caller:
        for n in range(20):
            assert caller.get(f"/{n}").status == 503
    w.wait_metric("weir_requests_total", 20)
    wait_until(lambda: len(w.log) == 20, "the log")
    spent = sum(line.get("reason") == "retry_budget" for line in w.log)
    assert spent > 0 and w.metric(name, upstream="agent") == spent == 40 - len(up.requests)
    assert w.metric(name) == spent
