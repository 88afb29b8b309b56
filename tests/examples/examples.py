"""An example of conf/examples, run as it stands there: only its addresses are a test's own."""
import re
import threading

import harness
from harness import free_port, wait_until
from llm import Llm
from support import let_it_count

FOLDER = harness.ROOT / "conf" / "examples"
JSON = ("Content-Type", "application/json")


def files():
    return sorted(FOLDER.glob("*.yaml"))


def plain(text):
    """Without its comments; no value of an example has a # in it."""
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


def is_configuration(path):
    """Others belong to one, such as its tenants."""
    return re.search(r"(?m)^version:", path.read_text()) is not None


def variables(text):
    """Those that have to be set."""
    return sorted(set(re.findall(r"\$\{(\w+)\}", plain(text))))


def secret(name):
    """What the variable of that name is in a test: to be found again where it should not be."""
    return f"canary-{name.lower().replace('_', '-')}"


def settings(text):
    """A value for each variable that has to be set."""
    return {name: f"https://{name.lower().replace('_', '-')}.example" if name.endswith(("_URL", "_ENDPOINT")) else secret(name)
            for name in variables(text)}


def changed(text, changes):
    """Each of them is there, and not in a comment alone."""
    for old, new in changes.items():
        assert old in plain(text), f"the example has no {old!r}"
        text = text.replace(old, new)
    return text


def own_ports(text):
    """The text with free ports of loopback for its listeners, and {listener: port}."""
    ports, head, listeners = {}, *text.partition("\nlisteners:\n")[::2]

    def own(m):
        ports[m[1]] = free_port()
        return f"  {m[1]}:\n    address: 127.0.0.1:{ports[m[1]]}"

    listeners = re.sub(r"(?m)^  ([a-z][a-z-]*):\n    address: \S+", own, listeners)
    assert ports and len(ports) == len(re.findall(r"(?m)^  [a-z]", listeners)), f"listeners that are written otherwise: {listeners}"
    return f"{head}\nlisteners:\n{listeners}", ports


class ExampleWeir(harness.Weir):
    """A weir with one of them; `changes`: {what stands in it: what a test has in its place}. No secret of its environment is
    ever to be read anywhere."""

    def __init__(self, name, changes, env, files=None):
        text, ports = own_ports(changed((FOLDER / name).read_text(), changes))
        self.secrets = [secret(v) for v in variables(text)]
        super().__init__(text, ports=ports, env={**settings(text), **env}, files=files)

    def stop(self, timeout=None, sig=harness.signal.SIGTERM):
        """Twice, so that it waits for no drain."""
        if self.process is not None and self.process.poll() is None:
            self.keeps_secrets()
            self.signal(sig)
            wait_until(lambda: not self.alive() or " drains" in self.stderr, "the drain")
        return super().stop(timeout, sig)

    def stop_and_wait(self):
        """As an orchestrator does."""
        return super().stop()

    def keeps_secrets(self):
        shown = [self.stdout, self.stderr, *(self.ask_admin(page).body.decode() for page in ("/config", "/status", "/metrics"))]
        for one in self.secrets:
            assert not any(one in text for text in shown), f"{one} can be read"

    def counted(self, name, **labels):
        """A counter, once nothing is in flight: a request is counted a moment after its answer's last byte."""
        let_it_count(self)
        return self.metric(name, **labels)

    def left(self, limit, path, listener="outbound", method="POST", **more):
        """What a limit has left for a request, once nothing is in flight."""
        self.wait_metric("weir_in_flight", 0)
        query = "&".join(f"{k}={v}" for k, v in {"listener": listener, "path": path, "method": method, **more}.items())
        r = self.ask_admin(f"/explain?{query}")
        assert r.status == 200, r
        [one] = [x for x in r.json()["limits"] if x["name"] == limit]
        return one["remaining"]

    def state(self, upstream, model=""):
        """The state in which a breaker is."""
        [state] = [dict(have)["state"] for (name, have), value in self.metrics().items() if name == "weir_breaker_state" and value
                   and dict(have)["upstream"] == upstream and dict(have)["model"] == model]
        return state


class Provider:
    """A provider's stub: an Llm; or what `instead` is: the bytes of an answer, or a function of the Peer. While `hold` is a
    semaphore, each answer waits for it."""

    def __init__(self, **fields):
        self.llm, self.instead, self.hold = Llm(**fields), None, None

    def __call__(self, peer):
        if self.hold is not None:
            assert self.hold.acquire(timeout=harness.DEADLINE), "the test never let it answer"
        return self.instead(peer) if callable(self.instead) else self.instead or self.llm(peer)


def credentials(request):
    """Every field of a request that names who pays, or who asks."""
    names = ("authorization", "x-api-key", "api-key", "cookie", "openai-organization", "openai-project", "x-tenant-id")
    return {name.lower(): value for name, value in request.headers if name.lower() in names}


def events_of(body):
    """The data of each event of a stream, in order."""
    return re.findall(rb"(?m)^data: (.*)$", body)


class Waiting(threading.Thread):
    """A request whose answer is waited for in the background."""

    def __init__(self, where, raw):
        super().__init__(daemon=True)
        self.conn, self.r, self.error = where if isinstance(where, harness.Conn) else harness.connect(where), None, None
        self.conn.send(raw)
        self.start()

    def run(self):
        try:
            self.r = self.conn.read_response("POST")
        except BaseException as e:
            self.error = e
        finally:
            self.conn.close()

    def answer(self):
        self.join(harness.DEADLINE)
        assert self.error is None and self.r is not None, self.error or "no answer in time"
        return self.r
