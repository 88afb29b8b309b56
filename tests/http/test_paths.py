"""Which route a request meets, by all the spellings a path can have, and what is then sent up."""
import pytest

from harness import BytesSource, base_config, connect, exchange, free_port, get, read_request, reply, request, weir
from support import limit_refusal, problem, rate_limit, routes


def echo_route(peer):
    """Tells which upstream was asked for what."""
    return reply(200, b"" if peer.request.method == "HEAD" else b"ok", [("X-Seen", peer.request.target)])


def config_with(up, *pairs, **more):
    config = base_config(up.port, **more)
    config["listeners"]["in"]["routes"] = routes(*pairs)
    return config


@pytest.fixture(scope="module")
def plain(shared_upstream):
    """A weir with one route, and its upstream, for all the tests that only ask."""
    with weir(base_config(shared_upstream.port)) as w:
        yield w, shared_upstream


@pytest.fixture(scope="module")
def stripping(shared_upstream):
    with weir(config_with(shared_upstream, ("/api", {"strip_prefix": True}), ("/", {}))) as w:
        yield w, shared_upstream


def sent_up(pair, target):
    """One GET that is answered: the target as the upstream got it."""
    w, up = pair
    before = len(up.requests)
    r = get(w.port, target)
    assert r.status == 200 and len(up.requests) == before + 1, r
    return up.requests[-1].target


def marked(up, *pairs):
    """A configuration in which each route is known by a limit of its own name, shown in the answer's RateLimit."""
    names = {path: "r" + str(n) for n, (path, _) in enumerate(pairs)}
    config = config_with(up, *[(path, {**fields, "limits": [names[path]]}) for path, fields in pairs])
    config["limits"] = {name: {"algorithm": "sliding_window", "limit": 100_000,
                               "window": "1h"} for name in names.values()}
    return config, {name: path for path, name in names.items()}


def met(r, names):
    """The path of the route that an answer came by."""
    return names[next(iter(rate_limit(r)))]


# ------------------------------------------------------------------------------------------------------------ matching


def test_the_longest_path_at_a_segment_boundary_wins(start_weir, start_upstream):
    up = start_upstream()
    config, names = marked(up, ("/", {}), ("/v1", {}), ("/v1/chat", {}), ("/v1/chat/completions", {}), ("/docs/", {}))
    w = start_weir(config)
    for target, path in [
        ("/", "/"), ("/x", "/"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/v1x", "/"), ("/v1/x", "/v1"),
        ("/v1?a=/v1/chat", "/v1"),
        ("/v1/chat", "/v1/chat"), ("/v1/chats", "/v1"), ("/v1/chat/", "/v1/chat"), ("/v1/chat/completion", "/v1/chat"),
        ("/v1/chat/completions", "/v1/chat/completions"), ("/v1/chat/completions/1", "/v1/chat/completions"),
        ("/v2/v1/chat", "/"), ("/V1", "/"), ("/v1.", "/"), ("/v1?", "/v1"), ("/docs/a", "/docs/"),
    ]:
        r = get(w.port, target)
        assert r.status == 200 and met(r, names) == path, target
        assert up.requests[-1].target == target


def test_the_order_of_the_file_does_not_matter(start_weir, start_upstream):
    up = start_upstream()
    pairs = [("/v1/chat", {}), ("/", {}), ("/v1", {})]
    config, names = marked(up, *pairs)
    w = start_weir(config)
    for target, path in (("/v1/chat/1", "/v1/chat"), ("/v1/2", "/v1"), ("/3", "/")):
        assert met(get(w.port, target), names) == path


def test_the_route_with_methods_wins_over_the_one_without(start_weir, start_upstream):
    one, two = start_upstream(echo_route), start_upstream(lambda p: reply(200, b"", [("X-Two", "1")]))
    for order in (1, -1):
        config = base_config(one.port)
        config["upstreams"]["two"] = {"url": two.url}
        pairs = [("/a", {}), ("/a", {"methods": ["POST", "PUT"], "upstream": "two"})]
        config["listeners"]["in"]["routes"] = routes(*pairs[::order])
        w = start_weir(config)
        for method, wanted in (("GET", False), ("HEAD", False), ("POST", True), ("PUT", True), ("DELETE", False)):
            r = exchange(w.port, request(method, "/a", body=b"" if method in ("POST", "PUT") else None))
            assert ("X-Two" in r.headers) is wanted, method


def test_no_route(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(config_with(up, ("/v1", {}), ("/v2", {})))
    for target in ("/", "/v", "/v1x", "/v3", "/V1", "/%761x"):
        problem(get(w.port, target), 404, "no_route")
    assert up.heads == 0


def test_a_wrong_method_is_told_the_right_ones(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(config_with(up, ("/v1", {"methods": ["GET", "POST"]}), ("/v1/x", {"methods": ["DELETE"]}),
                               ("/any", {})))
    r = exchange(w.port, request("PUT", "/v1/a", body=b""))
    problem(r, 405, "method")
    assert {m.strip() for m in r.header("Allow").split(",")} >= {"GET", "POST"}
    assert exchange(w.port, request("DELETE", "/v1/x/1")).status == 200
    assert exchange(w.port, request("PUT", "/any", body=b"")).status == 200
    problem(get(w.port, "/none"), 404, "no_route")
    assert [q.method for q in up.requests] == ["DELETE", "PUT"]


@pytest.mark.parametrize("method", ["get", "Get", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH"])
def test_methods_are_compared_exactly(start_weir, start_upstream, method):
    up = start_upstream()
    w = start_weir(config_with(up, ("/only", {"methods": ["GET"]}), ("/", {})))
    problem(exchange(w.port, request(method, "/only"), method=method), 405, "method")
    assert exchange(w.port, request(method, "/"), method=method).status == 200
    assert up.requests[0].method == method


@pytest.mark.parametrize("method,target", [("TRACE", "/"), ("CONNECT", "example.test:443"), ("CONNECT", "/")])
def test_trace_and_connect(start_weir, start_upstream, method, target):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    r = exchange(w.port, request(method, target), method="GET")
    assert r.status in ((400, 405) if (method, target) == ("CONNECT", "/") else (405,)), r
    assert up.heads == 0


def test_options_star(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    problem(exchange(w.port, request("OPTIONS", "*")), 404, "no_route")
    assert exchange(w.port, request("OPTIONS", "/")).status == 200
    assert exchange(w.port, request("GET", "*")).status == 400
    assert up.heads == 1


def test_routes_by_host(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(config_with(up, ("/", {"host": "a.example"}), ("/only-b", {"host": "b.example"})))
    for host, target, status in [("a.example", "/", 200), ("A.Example", "/", 200), ("a.example:8080", "/", 200),
                                 ("b.example", "/", 404), ("b.example", "/only-b", 200), ("a.example", "/only-b", 200),
                                 ("xa.example", "/", 404), ("a.example.evil", "/", 404)]:
        assert exchange(w.port, request("GET", target, host=host)).status == status, (host, target)


def test_a_listener_has_its_own_routes(start_weir, start_upstream):
    up = start_upstream()
    config = config_with(up, ("/in", {}))
    config["listeners"]["out"] = {"address": f"127.0.0.1:{free_port()}", "routes": routes(("/out", {}))}
    w = start_weir(config)
    for port, target, status in ((w.port, "/in", 200), (w.port, "/out", 404), (w.ports["out"], "/out", 200),
                                 (w.ports["out"], "/in", 404)):
        assert get(port, target).status == status
    assert {(l["listener"], l["route"]) for l in (w.wait_log(listener="in", status=200),
                                                  w.wait_log(listener="out", status=200))} \
        == {("in", "/in"), ("out", "/out")}


# ----------------------------------------------------------------------------------------------- spellings of one path

SPELLINGS = ["/v1/chat", "/v1/chat/", "//v1/chat", "/v1//chat", "///v1///chat//", "/%761/chat", "/v%31/chat",
             "/v1/%63hat",
             "/v1/%63%68%61%74", "/v1%2fchat", "/v1%2Fchat", "/v1/chat;a=1", "/v1;a=1/chat", "/v1;x;y=2//chat;z",
             "/v1/chat?q=1",
             "/v1/chat?", "/v1/chat;?x=%2f", "/v1/chat/more", "/%2f%2fv1/chat", "/v1%2f%2fchat", "/v1/chat%2Fmore"]


def test_every_spelling_lands_on_one_route_and_is_forwarded_as_it_came(start_weir, start_upstream):
    up = start_upstream()
    config, names = marked(up, ("/", {}), ("/v1/chat", {}))
    w = start_weir(config)
    for target in SPELLINGS:
        r = get(w.port, target)
        assert r.status == 200 and met(r, names) == "/v1/chat", target
        assert up.requests[-1].target == target


def test_all_spellings_together_stay_inside_one_limit(start_weir, start_upstream):
    up = start_upstream()
    config = config_with(up, ("/", {}), ("/v1/chat", {"limits": ["narrow"]}),
                         limits={"narrow": {"algorithm": "sliding_window", "limit": 7, "window": "1h",
                                            "key": ["route"]}})
    w = start_weir(config)
    answers = [get(w.port, target) for target in SPELLINGS]
    assert [r.status for r in answers] == [200] * 7 + [429] * (len(SPELLINGS) - 7)
    for r in answers[7:]:
        limit_refusal(r)
    assert up.heads == 7


LOOKALIKES = ["/v1x", "/v1%78", "/v1%3fchat", "/v1%3bchat/..x", "/%2576%31/chat", "/v1chat", "/v%3131"]


def test_what_only_looks_like_it_is_another_path(start_weir, start_upstream):
    up = start_upstream()
    config, names = marked(up, ("/", {}), ("/v1", {}))
    w = start_weir(config)
    for target in LOOKALIKES:
        r = get(w.port, target)
        assert r.status == 200 and met(r, names) == "/", target
        assert up.requests[-1].target == target


@pytest.mark.parametrize("target", ["/a?x=1&y=%20z", "/a?", "/a??b", "/a?x=/../y", "/a?x=%zz", "/a?x=%00", "/a?a;b;c",
                                    "/~u/!$&'()*+,=:@",
                                    "/%E4%BD%A0", "/a%20b", "/A%2fb/%7e"])
def test_the_target_is_forwarded_byte_for_byte(plain, target):
    assert sent_up(plain, target) == target


def test_bytes_that_no_uri_has(plain):
    """Refused or passed, but not changed."""
    w, up = plain
    for target in ("/a?\"", "/a?<", "/a?>", "/a?{}", "/a?|", "/a?^", "/a?`"):
        before = len(up.requests)
        assert get(w.port, target).status in (200, 400)
        assert [q.target for q in up.requests[before:]] in ([target], []), target


@pytest.mark.parametrize("target", [
    "/.", "/..", "/a/.", "/a/..", "/a/./b", "/a/../b", "/../v1", "/./v1", "/v1/..;/admin", "/v1/.;x=1/b", "/..;a",
    "/a/..%2fb", "/a%2f..%2fb",
    "/%2e%2e/b", "/a/%2e/b", "/.%2e/b", "/%2E./b", "/a/%2e%2e;x/b", "/a%2f%2e%2e", "/a//../b", "/a\\b", "/a/..\\b",
    "/a%00b", "/%00",
    "/a#b", "/a%", "/a%2", "/a%zz", "/a%2x/b", "/%",
])
def test_paths_that_are_refused(plain, target):
    w, up = plain
    before = up.heads
    with connect(w.port) as c:
        c.send(request("GET", target) + request("GET", "/next"))
        problem(c.read_response(), 400, "malformed")
        assert c.wait_closed() == "fin"
    assert up.heads == before


@pytest.mark.parametrize("target", ["/...", "/a/...", "/.a", "/a.", "/a..b/c", "/..a", "/a/.b./c", "/%2e%2e%2e",
                                    "/a;..", "/a;../b", "/a?..", "/a?/../"])
def test_dots_that_are_no_segments(plain, target):
    assert sent_up(plain, target) == target


def test_absolute_form(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(config_with(up, ("/", {"host": "a.example"})))
    for target, host, status in [("http://a.example/x?y", "a.example", 200), ("http://a.example", "a.example", 200),
                                 ("http://a.example/x", "b.example", (200, 400)),
                                 ("http://b.example/x", "b.example", 404)]:
        r = exchange(w.port, request("GET", target, host=host))
        assert r.status in (status if isinstance(status, tuple) else (status,)), (target, host)
    assert {q.target for q in up.requests} <= {"/x?y", "/", "/x", "http://a.example/x?y", "http://a.example",
                                               "http://a.example/x"}


# -------------------------------------------------------------------------------------------------- prefixes and hosts


@pytest.mark.parametrize("target,sent", [("/api", "/"), ("/api/", "/"), ("/api/v1", "/v1"),
                                         ("/api/v1?q=/api", "/v1?q=/api"), ("/api?q=1", "/?q=1"),
                                         ("/api/%61%2Fb;x", "/%61%2Fb;x"), ("/api/a//b", "/a//b")])
def test_strip_prefix(stripping, target, sent):
    assert sent_up(stripping, target) == sent


@pytest.mark.parametrize("target", ["/%61pi/x", "//api/x", "/api;a=1/x", "/ap%69%2fx", "/api//x"])
def test_strip_prefix_of_an_odd_spelling(stripping, target):
    """Whatever is cut off, what is sent up is a path that a strict server takes, and never one outside the rest."""
    sent = sent_up(stripping, target)
    assert sent.startswith("/") and sent.lstrip("/") in ("x", "%2fx")


@pytest.mark.parametrize("strip,target,sent", [(False, "/a?b", "/base/v2/a?b"), (False, "/", "/base/v2/"),
                                               (True, "/a?b", "/base/v2/a?b"),
                                               (False, "/x%2fy;z", "/base/v2/x%2fy;z")])
def test_a_path_in_the_upstreams_url_is_prefixed(start_weir, start_upstream, strip, target, sent):
    up = start_upstream()
    w = start_weir(base_config(f"http://127.0.0.1:{up.port}/base/v2", route={"strip_prefix": strip}))
    assert get(w.port, target).status == 200
    assert up.requests[0].target == sent


def test_prefix_of_a_unix_socket(start_weir, start_upstream):
    up = start_upstream(unix=True)
    w = start_weir(base_config(up.url, agent={"prefix": "/base"}))
    assert get(w.port, "/a?b").status == 200
    assert up.requests[0].target == "/base/a?b"


def test_host_is_the_upstreams_or_the_callers(start_weir, start_upstream):
    up = start_upstream()
    for host, wanted in (("upstream", f"127.0.0.1:{up.port}"), ("preserve", "caller.example:81"),
                         (None, f"127.0.0.1:{up.port}")):
        w = start_weir(base_config(up.port, agent={"host": host}))
        assert exchange(w.port, request("GET", "/", host="caller.example:81")).status == 200
        assert up.requests[-1].header("Host") == wanted


def test_host_is_preserved_toward_a_unix_socket(start_weir, start_upstream):
    up = start_upstream(unix=True)
    w = start_weir(base_config(up.url))
    assert exchange(w.port, request("GET", "/", host="caller.example")).status == 200
    assert up.requests[0].header("Host") == "caller.example"


def test_a_request_without_host_on_http_1_0(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    assert exchange(w.port, request("GET", "/", version="1.0", host=None)).status == 200
    assert up.requests[0].version == "1.1" and up.requests[0].header("Host") == f"127.0.0.1:{up.port}"


def test_the_harness_itself_reads_strictly():
    """If the stub took two readings of one head, the tests above would show nothing."""
    raw = request("GET", "/a%2f;b?c=%00")
    assert read_request(BytesSource(raw)).target == "/a%2f;b?c=%00"
