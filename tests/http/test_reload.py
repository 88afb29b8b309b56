"""A configuration that changes under a running weir: what sets it off, what a bad one does, and that none is lost."""
import copy
import hashlib
import re
import signal
import subprocess
import threading
import time

import pytest

import harness
from harness import base_config, connect, free_port, get, merge, reply, request, wait_until
from support import (Events, Load, MountedWeir, Stream, all_answered, error_lines, limit_refusal, problem, rate_limit,
                     refuses,
                     replace_file, routes, status_of, stopped_with_requests)

TENANT = "X-Tenant-ID"


def limited(up, limit, **more):
    return base_config(up.port, limits={"only": {"algorithm": "sliding_window", "limit": limit, "window": "1h"}},
                       route={"limits": ["only"]}, **more)


def quota(w):
    """The limit that is in force, from the answer to a request of a tenant nobody else uses."""
    return rate_limit(get(w.port, "/", [(TENANT, f"fresh-{time.monotonic_ns()}")]))["only"]["q"]


def full_text(w, config):
    """The text that the harness would write, with its admin and metrics addresses."""
    return w._complete_dict(config)


def wait_quota(w, wanted):
    wait_until(lambda: quota(w) == wanted, f"a limit of {wanted}")


# -------------------------------------------------------------------------------------------------------- what reloads


def test_sighup(start_weir, start_upstream):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    assert quota(w) == 10
    config["limits"]["only"]["limit"] = 11
    w.reload(config)
    assert quota(w) == 11
    assert w.metric("weir_config_reloads_total", result="ok") >= 1
    assert abs(w.metric("weir_config_loaded_timestamp_seconds") - time.time()) < 60


def test_sighup_of_an_unchanged_file(start_weir, start_upstream):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    for _ in range(3):
        w.reload(config)
    assert quota(w) == 10


@pytest.mark.parametrize("how", ["replaced", "rewritten"])
def test_a_change_of_the_file(start_weir, start_upstream, how):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    for limit in (11, 12, 13):
        config["limits"]["only"]["limit"] = limit
        if how == "replaced":
            replace_file(w.config_path, full_text(w, config))
        else:
            w.config_path.write_text(full_text(w, config))
        wait_quota(w, limit)


@pytest.mark.parametrize("what", ["int inotify_init1(int a) { (void)a; errno = EMFILE; return -1; }",
                                  "int inotify_add_watch(int a, const char *b, uint32_t c) "
                                  "{ (void)a; (void)b; (void)c; errno = ENOSPC; return -1; }"], ids=["instance", "watch"])
def test_where_the_kernel_grants_no_inotify(start_weir, start_upstream, tmp_path, what):
    """Its instances and watches are counted by user and machine; without, weir looks by itself, every 10 s."""
    source, library = tmp_path / "none.c", tmp_path / "none.so"
    source.write_text(f"#include <errno.h>\n#include <stdint.h>\n{what}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    config = limited(start_upstream(), 10)
    w = start_weir(config, env={"LD_PRELOAD": str(library)})
    assert w.stderr.count("changes of the configuration are seen after 10 s") == 1
    for limit in (11, 12):
        config["limits"]["only"]["limit"] = limit
        replace_file(w.config_path, full_text(w, config))
        wait_until(lambda: quota(w) == limit, f"a limit of {limit}", timeout=60)


def test_the_file_is_gone_for_a_moment(start_weir, start_upstream):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    w.config_path.unlink()
    assert quota(w) == 10
    config["limits"]["only"]["limit"] = 11
    w.config_path.write_text(full_text(w, config))
    wait_quota(w, 11)


def test_a_swapped_configmap(start_upstream):
    """kubelet swaps the ..data link; the file's own inode never changes, so a watch on it goes dead."""
    config = limited(start_upstream(), 10)
    with MountedWeir(config) as w:
        for limit in (11, 12, 13):
            config["limits"]["only"]["limit"] = limit
            w._write_config(config)
            wait_quota(w, limit)


def test_a_change_of_the_tenants_file(start_weir, start_upstream):
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("key-one", "key-two")}
    up = start_upstream()
    config = limited(up, 10, tenant={"from": [{"api_key": "x-api-key"}], "file": "tenants.yaml"})
    w = start_weir(config, files={"tenants.yaml": f"api_keys: {{{keys['key-one']}: acme}}\n"})
    ask = lambda key: get(w.port, "/", [("x-api-key", key)])
    assert rate_limit(ask("key-one"))["only"]["q"] == 10
    problem(ask("key-two"), 401, "api_key_unknown")
    replace_file(w.dir / "tenants.yaml",
                 f"api_keys: {{{keys['key-two']}: globex}}\nlimits:\n  only: {{globex: {{limit: 77}}}}\n")
    wait_until(lambda: ask("key-two").status == 200, "the new key")
    assert rate_limit(ask("key-two"))["only"]["q"] == 77
    problem(ask("key-one"), 401, "api_key_unknown")


def test_a_change_of_an_inserted_file(start_weir, start_upstream, tmp_path):
    body = tmp_path / "body"
    body.write_text("first\n")
    config = limited(start_upstream(), 1)
    config["listeners"]["in"]["routes"][0]["on_limit"] = {"body": f"${{file:{body}}}"}
    w = start_weir(config)
    get(w.port)
    assert get(w.port).body == b"first"
    replace_file(body, "second\n")
    wait_until(lambda: get(w.port).body == b"second", "the new content")


def test_post_reload(start_weir, start_upstream):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    config["limits"]["only"]["limit"] = 11
    w._write_config(config)
    assert w.ask_admin("/reload", method="POST", body=b"").status == 200
    assert quota(w) == 11


# -------------------------------------------------------------------------------------------------------- a bad reload


def broken(config):
    return {**config, "limits": {"only": {"algorithm": "sliding_window", "limit": "many", "window": "1h"}}, "sever": {}}


def test_a_bad_reload_leaves_the_old_in_force(start_weir, start_upstream):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    w.reload(broken(config), result="error")
    assert quota(w) == 10 and w.ask("/readyz").status == 200
    assert w.metric("weir_config_reloads_total", result="error") >= 1
    wait_until(lambda: re.search(r"weir\.yaml:\d+:\d+: .*limits\.only\.limit: ", w.stderr), "the error in the log")
    assert "sever" in w.stderr, "every error, not only the first"
    config["limits"]["only"]["limit"] = 12
    w.reload(config)
    assert quota(w) == 12


@pytest.mark.parametrize("text", ["", "\t", "version: 1\nversion: 1\n", "[", "\0", "version: 2\n"])
def test_a_reload_of_a_wreck(start_weir, start_upstream, text):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    before = w.metric("weir_config_reloads_total", result="error")
    replace_file(w.config_path, text)
    w.signal(signal.SIGHUP)
    w.wait_metric("weir_config_reloads_total", lambda v: v > before, result="error")
    assert quota(w) == 10


def test_post_reload_tells_the_errors(start_weir, start_upstream):
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    w._write_config(broken(config))
    r = w.ask_admin("/reload", method="POST", body=b"")
    assert r.status == 422
    assert (r.header("Content-Type") or "text/plain").startswith("text/plain")
    found = error_lines("weir.yaml", r.body.decode())
    assert [rest.partition(": ")[0] for *_, rest in sorted(found)] == ["limits.only.limit", "sever"]
    assert quota(w) == 10


def test_a_bad_tenants_file_leaves_the_old_in_force(start_weir, start_upstream):
    config = limited(start_upstream(), 10, tenant={"file": "tenants.yaml"})
    w = start_weir(config, files={"tenants.yaml": "limits: {only: {acme: {limit: 5}}}\n"})
    replace_file(w.dir / "tenants.yaml", "limits: {only: {acme: {limit: many}}}\n")
    w.wait_metric("weir_config_reloads_total", lambda v: v >= 1, result="error")
    assert rate_limit(get(w.port, "/", [(TENANT, "acme")]))["only"]["q"] == 5
    wait_until(lambda: re.search(r"tenants\.yaml:1:\d+: ", w.stderr), "the error in the log")


def test_a_new_address_that_is_taken_changes_nothing(start_weir, start_upstream):
    """What is new is bound before anything changes."""
    config = limited(start_upstream(), 10)
    w = start_weir(config)
    with harness.socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        more = {**config, "listeners": {**config["listeners"], "more": {
            "address": f"127.0.0.1:{taken.getsockname()[1]}", "routes": routes(("/", {}))}}}
        more["limits"] = {"only": {**config["limits"]["only"], "limit": 12}}
        w.reload(more, result="error")
        assert quota(w) == 10
    config["limits"]["only"]["limit"] = 13
    w.reload(config)
    assert quota(w) == 13


# ------------------------------------------------------------------------------------------------- what a reload moves


def test_a_listener_that_comes_and_goes(start_weir, start_upstream):
    config = base_config(start_upstream().port)
    w = start_weir(config)
    port = free_port()
    with_more = {**config, "listeners": {**config["listeners"],
                                         "more": {"address": f"127.0.0.1:{port}", "routes": routes(("/more", {}))}}}
    for _ in range(3):
        w.reload(with_more)
        assert (status_of(port, "/more"), status_of(port, "/"), status_of(w.port)) == (200, 404, 200)
        w.reload(config)
        wait_until(lambda: refuses(port), "the listener to be gone")
        assert status_of(w.port) == 200


def test_a_listener_that_moves(start_weir, start_upstream):
    config = base_config(start_upstream().port)
    w = start_weir(config)
    old, new = w.port, free_port()
    config["listeners"]["in"]["address"] = f"127.0.0.1:{new}"
    w.reload(config)
    assert status_of(new) == 200
    wait_until(lambda: refuses(old), "the old address to be gone")


def test_routes_and_upstreams_change(start_weir, start_upstream):
    one, two = start_upstream(), start_upstream(script=[reply(200, b"two")])
    config = base_config(one.port)
    w = start_weir(config)
    config["upstreams"]["agent"]["url"] = two.url
    w.reload(config)
    assert get(w.port).body == b"two"
    config["listeners"]["in"]["routes"] = routes(("/only", {}))
    w.reload(config)
    assert (status_of(w.port, "/only"), status_of(w.port, "/")) == (200, 404)


def test_a_request_keeps_what_it_began_with(start_weir, start_upstream):
    """A kept connection meets the new configuration with its next request; a request in flight ends under the old."""
    go = threading.Event()
    up = start_upstream(script=[reply(200, b"", [("Content-Length", "4")], length=False), b"ol", go, b"d!"])
    other = start_upstream(script=[reply(200, b"new")])
    config = base_config(up.port)
    w = start_weir(config)
    with connect(w.port) as c:
        c.send(request("GET", "/"))
        up.wait_heads()
        config["upstreams"]["agent"]["url"] = other.url
        config["listeners"]["in"]["routes"][0]["limits"] = ["shut"]
        config["limits"] = {"shut": {"rate": "0/s"}}
        w.reload(config)
        go.set()
        r = c.read_response()
        assert (r.status, r.body) == (200, b"old!") and "RateLimit" not in r.headers
        c.send(request("GET", "/"))
        limit_refusal(c.read_response())


def test_fields_for_the_next_start_are_named(start_weir, start_upstream):
    config = base_config(start_upstream().port, server={"workers": 1})
    w = start_weir(config)
    config["server"]["workers"] = 2
    w.reload(config)
    assert status_of(w.port) == 200
    wait_until(lambda: "server.workers" in w.stderr, "a word that it takes a restart")


# ----------------------------------------------------------------------------------------------------- nothing is lost


def test_fifty_reloads_under_load(start_weir, start_upstream):
    """Each changes a limit, an upstream and a listener; kept and new connections and one stream go on throughout."""
    events = Events()
    up, spare = start_upstream(events), start_upstream()
    extra = [free_port(), free_port()]

    def version(n):
        config = base_config(up.port, listener={"address": f"127.0.0.1:{main}"}, server={"workers": 2},
                             limits={"wide": {"rate": f"{100_000 + n}/s"},
                                     f"turn{n % 3}": {"rate": f"{200_000 + n}/s"}},
                             route={"limits": ["wide", f"turn{n % 3}"]}, agent={"timeouts": {"idle": f"{60 + n}s"}})
        config["upstreams"][f"spare{n % 2}"] = {"url": spare.url}
        config["listeners"]["in"]["routes"].append({"path": f"/turn{n}", "upstream": f"spare{n % 2}"})
        config["listeners"]["extra"] = {"address": f"127.0.0.1:{extra[n % 2]}", "routes": routes(("/", {}))}
        return config

    main = free_port()
    w = start_weir(version(0))
    stream = Stream(main)
    with Load(lambda: main, keeping=4, opening=3) as load:
        for n in range(1, 51):
            w.reload(version(n))
            assert status_of(main, f"/turn{n}") == 200
            if n % 10 == 0:
                assert status_of(extra[n % 2]) == 200
            load.wait_for(20)
    load.assert_none_failed()
    assert stream.is_alive(), f"the stream did not outlive the reloads: {stream.error!r}"
    events.finish.set()
    assert stream.check() > 50
    assert w.metric("weir_config_reloads_total", result="ok") >= 50
    w.wait_metric("weir_in_flight", 0)


def test_retiring_an_address_loses_no_queued_connection(start_weir, start_upstream):
    """Connections made to an address up to its last moment are answered; later ones are refused, never reset."""
    up = start_upstream()
    config = base_config(up.port, server={"workers": 2})
    moving = {**config, "listeners": {**config["listeners"]}}
    w = start_weir(config)
    for _ in range(5):
        port = free_port()
        moving["listeners"]["move"] = {"address": f"127.0.0.1:{port}", "routes": routes(("/", {}))}
        w.reload(moving)
        lost, answered, refused, end = [], 0, 0, time.monotonic() + harness.DEADLINE

        def hammer(_, port=port):
            nonlocal answered, refused
            while time.monotonic() < end:
                try:
                    c = connect(port)
                except ConnectionRefusedError:
                    refused += 1
                    return
                except OSError as e:  # a SYN that is dropped while it retires times out, as one to a dead host
                    lost.append(repr(e))
                    return
                with c:
                    try:
                        c.send(request("GET", "/", [("Connection", "close")]))
                        assert c.read_response().status == 200
                        answered += 1
                    except AssertionError as e:
                        lost.append(repr(e))

        threads = [threading.Thread(target=hammer, args=(n,), daemon=True) for n in range(4)]
        for t in threads:
            t.start()
        wait_until(lambda: answered > 20 or lost, "answers")
        w.reload(config)
        for t in threads:
            t.join(2 * harness.DEADLINE)
        assert not any(t.is_alive() for t in threads)
        assert not lost, lost[:5]
        assert refused == len(threads)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_waits_at_an_address_when_it_retires_is_answered(start_weir, start_upstream, workers):
    """A socket that shares its port resets what is in its queue when it is closed: it must be emptied first."""
    config = base_config(start_upstream().port, server={"workers": workers})
    w = start_weir(config)
    for _ in range(3):
        port = free_port()
        w.reload(merge(copy.deepcopy(config), {"listeners": {"move": {"address": f"127.0.0.1:{port}",
                                                                      "routes": routes(("/", {}))}}}))
        assert status_of(port) == 200
        with stopped_with_requests(w, port, 100) as conns:
            w._write_config(config)
            w.signal(signal.SIGHUP)
        all_answered(conns)
        wait_until(lambda: refuses(port), "the address to be gone")


def test_memory_and_descriptors_stay_after_many_reloads(start_weir, start_upstream):
    up = start_upstream()
    config = limited(up, 1000)
    w = start_weir(config)

    def turn(n):
        config["limits"]["only"]["limit"] = 1000 + n
        config["upstreams"]["agent"]["timeouts"] = {"connect": f"{1 + n % 5}s"}
        w.reload(config)
        assert status_of(w.port) == 200

    for n in range(20):
        turn(n)
    wait_until(lambda: w.metric("weir_connections", listener="in") == 0, "no connection left")
    before, rss = w.fd_count(), w.rss_kb()
    for n in range(20, 70):
        turn(n)
    wait_until(lambda: w.fd_count() <= before + 2, f"{before} descriptors again, not {w.fd_count()}", every=0.1)
    assert w.rss_kb() - rss < (40_000 if harness.sanitized() else 3_000)
