"""How weir comes to its redis: passwords, ACL users, databases, unix sockets, TLS; what it says when it is not let in - and that
no password stands in any log."""
import json
import time

import pytest

from certificates import Authority
from fleet import admitted, burst_of, get_raw, limited, only, store_lines
from harness import base_config, free_port, get, run_weir, wait_until

SECRET = "s3cret/of+the=store!"
LIMIT = {"l": {"rate": "1/h", "burst": 10, "on_failure": "closed"}}


def works(start_fleet, up, server, **store):
    """Two sidecars share the limit there."""
    fleet = start_fleet(2, limited(up, server, LIMIT, store=store))
    assert len(admitted(only(burst_of(fleet, 1, 10, lambda n, i: get_raw()), 200, 429))) == 10
    silent(fleet)
    return fleet


def silent(fleet):
    """The password is nowhere to be read."""
    for w in fleet:
        shown = w.stderr + w.stdout + w.ask_admin("/config").body.decode() + w.ask_admin("/status").body.decode() \
            + w.ask("/metrics").body.decode()
        assert SECRET not in shown and "s3cret" not in shown


def refused(start_fleet, up, server, *words, **store):
    """Serves, degraded; the log says why, in one line that has one of these words."""
    config = limited(up, server, {"l": {**LIMIT["l"], "on_failure": "open"}}, store={"timeout": "200ms", **store})
    fleet = start_fleet(1, config, wait=False)
    wait_until(fleet[0].ready, "readiness")
    lines = wait_until(lambda: store_lines(fleet[0]), "the log's line")
    only(burst_of(fleet, 2, 10, lambda n, i: get_raw()), 200)
    time.sleep(0.25)
    assert fleet[0].metric("weir_store_up") == 0 and fleet[0].metric("weir_store_degraded") == 1
    lines = store_lines(fleet[0])
    assert len(lines) <= 2, lines
    assert any(word in line for line in lines for word in words), lines
    assert json.loads(lines[0])["level"] in ("warn", "error")
    silent(fleet)
    return fleet


def test_a_password(start_redis, start_upstream, start_fleet):
    works(start_fleet, start_upstream(), start_redis(password=SECRET), password=SECRET)


def test_a_password_of_words(start_redis, start_upstream, start_fleet):
    phrase = f"{SECRET} is 'not' \\ a \"token\" "
    server = start_redis()
    server.ask("CONFIG", "SET", "requirepass", phrase)
    server.password = phrase
    works(start_fleet, start_upstream(), server, password=phrase)


def test_a_user(start_redis, start_upstream, start_fleet):
    server = start_redis()
    server.ask("ACL", "SETUSER", "weir", "on", f">{SECRET}", "~weir:*", "+@all", "-@admin", "-@dangerous", "+info")
    server.ask("ACL", "SETUSER", "default", "on", ">other", "resetkeys", "~*", "+@all")
    server.password = "other"
    works(start_fleet, start_upstream(), server, username="weir", password=SECRET)


def test_a_password_from_a_file_and_the_environment(start_redis, start_upstream, start_fleet, tmp_path):
    server = start_redis(password=SECRET)
    (tmp_path / "password").write_text(SECRET + "\n")
    works(start_fleet, start_upstream(), server, password=f"${{file:{tmp_path}/password}}")
    config = limited(start_upstream(), server, LIMIT, store={"password": "${STORE_PASSWORD}"})
    fleet = start_fleet(1, config, env={"STORE_PASSWORD": SECRET})
    assert get(fleet[0].port).status == 429
    silent(fleet)


WRONG = {
    "no password": ({}, ("NOAUTH",)),
    "wrong password": ({"password": "s3cret-but-not-that"}, ("WRONGPASS", "invalid username-password")),
    "unknown user": ({"username": "nobody", "password": SECRET}, ("WRONGPASS", "invalid username-password")),
}


@pytest.mark.parametrize("name", WRONG)
def test_not_let_in(start_redis, start_upstream, start_fleet, name):
    store, words = WRONG[name]
    server = start_redis(password=SECRET)
    fleet = refused(start_fleet, start_upstream(), server, *words, **store)
    if "username" not in store:         # and when that is mended over there, it is let in
        server.ask("CONFIG", "SET", "requirepass", store.get("password", ""))
        server.password = store.get("password")
        fleet.wait_up(1, timeout=8)


def test_a_user_who_may_not(start_redis, start_upstream, start_fleet):
    """It may log in, but not run scripts."""
    server = start_redis()
    server.ask("ACL", "SETUSER", "weir", "on", f">{SECRET}", "~*", "+@all", "-eval", "-evalsha", "-fcall")
    refused(start_fleet, start_upstream(), server, "NOPERM", "permission", username="weir", password=SECRET)


def test_a_password_where_none_is_wanted(start_redis, start_upstream, start_fleet):
    """Redis says that none is set: an error, told as such."""
    refused(start_fleet, start_upstream(), start_redis(), "AUTH", "password", password=SECRET)


def test_the_log_line_is_not_repeated_for_hours_of_refusals(start_redis, start_upstream, start_fleet):
    server = start_redis(password=SECRET)
    fleet = refused(start_fleet, start_upstream(), server, "NOAUTH")
    before = int(server.ask("INFO", "stats").decode().split("total_connections_received:")[1].split()[0])
    time.sleep(1)
    after = int(server.ask("INFO", "stats").decode().split("total_connections_received:")[1].split()[0])
    assert after - before < 20, "reconnects without a pause"
    assert len(store_lines(fleet[0])) <= 2


@pytest.mark.parametrize("database", [1, 7])
def test_a_database(start_redis, start_upstream, start_fleet, database):
    server = start_redis()
    fleet = works(start_fleet, start_upstream(), server, database=database)
    assert not server.keys(0) and len(server.keys(database)) >= 1
    server.restart()
    fleet.wait_up(1)
    wait_until(lambda: get(fleet[0].port).status == 200, "the new redis")
    assert not server.keys(0) and server.keys(database), "after a reconnect too"


def test_a_database_that_is_none(start_redis, start_upstream, start_fleet):
    refused(start_fleet, start_upstream(), start_redis(databases=4), "DB index", "ERR", "database", database=9)


@pytest.mark.parametrize("kept", ["open", "closed"])
def test_a_unix_socket(start_redis, start_upstream, start_fleet, tmp_path, kept):
    path, password = tmp_path / "redis.sock", SECRET if kept == "closed" else None
    server = start_redis(unixsocket=path, password=password)
    works(start_fleet, start_upstream(), f"unix://{path}", password=password)
    assert len([k for k in server.keys() if ":l:l:" in k]) == 1


def test_a_unix_socket_that_comes_and_goes(start_redis, start_upstream, start_fleet, tmp_path):
    path = tmp_path / "redis.sock"
    fleet = refused(start_fleet, start_upstream(), f"unix://{path}", "No such file", "ENOENT", "connect")
    server = start_redis(unixsocket=path)
    fleet.wait_up(1, timeout=8)
    assert get(fleet[0].port).status == 200 and [k for k in server.keys() if ":l:l:" in k]


def test_an_address_of_ipv6(start_redis, start_upstream, start_fleet):
    server = start_redis(bind="127.0.0.1 ::1")
    works(start_fleet, start_upstream(), f"[::1]:{server.port}")


def test_a_name(start_redis, start_upstream, start_fleet):
    server = start_redis()
    works(start_fleet, start_upstream(), f"localhost:{server.port}")


def test_a_name_that_nobody_knows(start_upstream, start_fleet):
    refused(start_fleet, start_upstream(), "nobody.invalid:6379", "nobody.invalid")


# --------------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def start_tls(start_redis, authority):
    """A redis with a TLS port: (server, address)."""
    def start(name="redis.test", sans=("DNS:redis.test", "IP:127.0.0.1"), clients=False, **kw):
        cert, port = authority.issue(name, list(sans)), free_port()
        server = start_redis(tls_port=port, tls_cert_file=cert.cert, tls_key_file=cert.key, tls_ca_cert_file=authority.file,
                             tls_auth_clients="yes" if clients else "no", **kw)
        return server, f"127.0.0.1:{port}"

    return start


def test_tls(start_tls, authority, start_upstream, start_fleet):
    server, address = start_tls()
    fleet = works(start_fleet, start_upstream(), address, tls={"ca": authority.file})
    assert [k for k in server.keys() if ":l:l:" in k]
    server.restart()
    fleet.wait_up(1)
    wait_until(lambda: get(fleet[0].port).status == 200, "the new redis")


def test_tls_by_a_name_of_its_own(start_tls, authority, start_upstream, start_fleet):
    _, address = start_tls(sans=("DNS:redis.test",))
    works(start_fleet, start_upstream(), address, tls={"ca": authority.file, "server_name": "redis.test"})


def test_tls_with_a_password_and_a_database(start_tls, authority, start_upstream, start_fleet):
    server, address = start_tls()
    server.ask("CONFIG", "SET", "requirepass", SECRET)
    server.password = SECRET
    works(start_fleet, start_upstream(), address, tls={"ca": authority.file}, password=SECRET, database=1)
    assert server.keys(1)


def test_tls_with_a_certificate_of_weirs(start_tls, authority, start_upstream, start_fleet):
    _, address = start_tls(clients=True)
    works(start_fleet, start_upstream(), address, tls={"ca": authority.file, **authority.issue("weir", usage="clientAuth").pair})


TLS_FAILS = {
    "another name": (lambda a, t: {"ca": a.file, "server_name": "other.test"}, {}),
    "an address not named": (lambda a, t: {"ca": a.file}, {"sans": ("DNS:redis.test",)}),
    "an unknown authority": (lambda a, t: {"ca": Authority(t).file}, {}),
    "the system's authorities": (lambda a, t: {}, {}),
    "no certificate where one is wanted": (lambda a, t: {"ca": a.file}, {"clients": True}),
}


@pytest.mark.parametrize("name", TLS_FAILS)
def test_tls_refused(start_tls, authority, start_upstream, start_fleet, tmp_path, name):
    make, how = TLS_FAILS[name]
    server, address = start_tls(**how)
    words = ("certificate", "TLS", "verify", "mismatch", "reset", "hung up")
    refused(start_fleet, start_upstream(), address, *words, tls=make(authority, tmp_path))
    assert not server.keys(), "nothing was told to whom it does not know"


def test_tls_to_a_port_without(start_redis, authority, start_upstream, start_fleet):
    words = ("TLS", "tls", "SSL", "handshake", "hung up", "answer")
    refused(start_fleet, start_upstream(), start_redis(), *words, tls={"ca": authority.file})


def test_no_tls_to_a_port_with_it(start_tls, start_upstream, start_fleet):
    _, address = start_tls()
    refused(start_fleet, start_upstream(), address, "hung up", "reset", "protocol", "answer", "Protocol")


def test_files_that_are_missing(tmp_path):
    config = base_config(9, store={"kind": "redis", "redis": {"tls": {"ca": str(tmp_path / "none.pem")}}})
    done = run_weir("--check", config=config)
    assert done.returncode == 2 and "store.redis.tls.ca" in done.stderr, done
