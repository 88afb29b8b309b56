"""Certificates for tests, made by the openssl command in a temporary directory.

    ca = Authority(folder)
    good = ca.issue("localhost", ["DNS:localhost", "IP:127.0.0.1"])     # good.cert, good.key: paths
    ca.issue("old", ["DNS:localhost"], expired=True)
    server_context(good, ...)                                           # an ssl.SSLContext
"""
import itertools
import pathlib
import ssl
import subprocess
from dataclasses import dataclass

import harness

_CONFIG = """
[ca]
default_ca = own
[own]
new_certs_dir = {folder}
database = {folder}/index
serial = {folder}/serial
default_md = sha256
policy = any
unique_subject = no
rand_serial = yes
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Certificate:
    cert: str  # the certificate, and behind it what signed it
    key: str
    name: str

    @property
    def pair(self):
        return {"cert": self.cert, "key": self.key}


def _openssl(*args):
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"openssl {' '.join(map(str, args))}: {done.stderr}"


def _new_key(path):
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)


class Authority:
    """A root of trust of its own; `parent` makes it an intermediate one."""

    _numbers = itertools.count(1)

    def __init__(self, folder, name="test authority", parent=None):
        self.folder = pathlib.Path(folder) / f"ca{next(self._numbers)}"
        self.folder.mkdir()
        self.key, self.cert, self.parent = self.folder / "ca.key", self.folder / "ca.pem", parent
        (self.folder / "index").touch()
        (self.folder / "openssl.cnf").write_text(_CONFIG.format(folder=self.folder))
        _new_key(self.key)
        if parent is None:
            _openssl("req", "-x509", "-new", "-key", self.key, "-subj", f"/CN={name}", "-days", 30, "-out", self.cert,
                     "-addext", "keyUsage=critical,keyCertSign")
        else:
            parent._sign(self.key, name, "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n", self.cert)

    @property
    def file(self):
        return str(self.cert)

    def _sign(self, key, name, extensions, out, *dates):
        request, extra = self.folder / "request", self.folder / "extensions"
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        extra.write_text(extensions)
        _openssl("ca", "-batch", "-notext", "-config", self.folder / "openssl.cnf", "-cert", self.cert, "-keyfile",
                 self.key, "-in", request, "-out", out, "-extfile", extra, *(dates or ("-days", 10)))

    @classmethod
    def of(cls, folder, certificate):
        """Signs with what may not sign."""
        one = cls(folder)
        one.key.write_text(pathlib.Path(certificate.key).read_text())
        one.cert.write_text(pathlib.Path(certificate.cert).read_text())
        one.parent = one
        return one

    def issue(self, name, sans=(), expired=False, usage=None):
        """usage: serverAuth or clientAuth, where it is for that only."""
        number = next(self._numbers)
        key, cert = self.folder / f"{number}.key", self.folder / f"{number}.pem"
        _new_key(key)
        dates = ("-startdate", "20200101000000Z", "-enddate", "20200201000000Z") if expired else ()
        extensions = "basicConstraints=CA:FALSE\n" + (f"subjectAltName={','.join(sans)}\n" if sans else "")
        self._sign(key, name, extensions + (f"extendedKeyUsage={usage}\n" if usage else ""), cert, *dates)
        if self.parent is not None:
            cert.write_text(cert.read_text() + self.cert.read_text())
        return Certificate(str(cert), str(key), name)


def self_signed(folder, name, sans):
    number = next(Authority._numbers)
    key, cert = pathlib.Path(folder) / f"{number}.key", pathlib.Path(folder) / f"{number}.pem"
    _new_key(key)
    _openssl("req", "-x509", "-new", "-key", key, "-subj", f"/CN={name}", "-days", 30, "-out", cert, "-addext",
             f"subjectAltName={','.join(sans)}")
    return Certificate(str(cert), str(key), name)


def server_context(certificate, *, client_ca=None, maximum=None, alpn=("http/1.1",)):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    if maximum:
        context.maximum_version = maximum
    context.set_alpn_protocols(list(alpn))
    return context


def client_context(ca=None, *, certificate=None, maximum=None, alpn=("http/1.1",)):
    """Verifies where `ca` is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        context.load_verify_locations(ca)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate.cert, certificate.key)
    if maximum:
        context.maximum_version = maximum
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def common_name(certificate):
    return dict(part[0] for part in certificate["subject"])["commonName"] if certificate else None


class Handshakes:
    """Makes an Upstream speak TLS: Upstream(on_connect=Handshakes(context)). Remembers what callers said in it."""

    def __init__(self, context):
        self.context, self.names, self.failed, self.done, self.callers, self.resumed = context, [], [], [], [], []
        context.sni_callback = lambda sock, name, _: self.names.append(name)

    def __call__(self, peer):
        try:
            peer.sock = self.context.wrap_socket(peer.sock, server_side=True)
        except (ssl.SSLError, OSError) as e:
            self.failed.append(str(e))
            raise harness.Gone(str(e)) from None
        self.done.append(peer.sock)
        self.resumed.append(peer.sock.session_reused)
        self.callers.append(common_name(peer.sock.getpeercert()))
        peer.src = harness.SocketSource(peer.sock)
