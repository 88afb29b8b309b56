"""weir's image as helm/Dockerfile builds it, and weir running in it as a container does.

    with built() as image:                      # an Image, unpacked; takes a minute
        with Contained(config, image=image) as w:
            ...                                 # a harness.Weir, whose process is the container's first

The build needs buildah, umoci, mmdebstrap and Debian's mirror as apt on this machine knows it; running needs bwrap.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import harness
from harness import ROOT, wait_until

BASE_TAR = ROOT / "build" / "image" / "base.tar"  # kept between runs
UID = 65532


def run(*argv, timeout=300, **kw):
    """Runs a tool to its end and returns what it wrote; a tool that is missing or fails is named."""
    if shutil.which(argv[0]) is None:
        raise AssertionError(f"{argv[0]} is missing; it is Debian's package of that name")
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, **kw)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}:\n{(done.stdout + done.stderr)[-6000:]}"
    return done.stdout


# ----------------------------------------------------------------------------------------------------------- the build


def build_packages():
    """What proxy/install.sh installs for a build."""
    text = (ROOT / "proxy" / "install.sh").read_text()
    return re.search(r'(?m)^BUILD="([^"]*)"', text).group(1).split()


def debian_sources():
    """This machine's lines of Debian itself, whatever else it has."""
    lines = run("apt-get", "indextargets", "--format", "deb $(REPO_URI) $(CODENAME) $(COMPONENT)",
                "Created-By: Packages", "Origin: Debian").splitlines()
    assert lines, "apt on this machine knows no source of Debian's, or was never updated"
    return sorted(set(lines))


def apt_proxies(folder):
    """apt's proxies and the like, for a base that is fetched as this machine fetches."""
    wanted = re.compile(r'Acquire::(http|https|ftp)::|Acquire::(Retries|Check-Valid-Until)')
    file = folder / "apt.conf"
    file.write_text("".join(line + "\n" for line in run("apt-config", "dump", "Acquire").splitlines() if wanted.match(line)))
    return file


def base_tar(folder):
    """A small Debian with all that a build needs, so that install.sh has nothing to fetch in the build stage."""
    packages, sources = build_packages(), debian_sources()
    wanted = hashlib.sha256(json.dumps([packages, sources]).encode()).hexdigest()
    mark = BASE_TAR.with_suffix(".of")
    if BASE_TAR.exists() and mark.exists() and mark.read_text() == wanted:
        return BASE_TAR
    BASE_TAR.parent.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    listed, fresh = folder / "sources.list", BASE_TAR.with_name("fresh.tar")
    listed.write_text("".join(line + "\n" for line in sources))
    suite = next(line.split()[2] for line in sources if "-" not in line.split()[2])
    run("mmdebstrap", "--mode=auto", "--variant=minbase", f"--include={','.join(packages)}",
        f"--aptopt={apt_proxies(folder)}",
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "locale", "doc")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright", suite, fresh, listed)
    os.replace(fresh, BASE_TAR)
    mark.write_text(wanted)
    return BASE_TAR


def as_oci(tar, layout):
    """An OCI layout of one image `base` whose one layer is the tar."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    machine = run("dpkg", "--print-architecture").strip()

    def put(content, kind):
        data = json.dumps(content).encode()
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}.v1+json", "digest": f"sha256:{name}", "size": len(data)}

    with open(tar, "rb") as f:
        digest = hashlib.sha256()
        while piece := f.read(1 << 20):
            digest.update(piece)
    layer = digest.hexdigest()
    (blobs / layer).symlink_to(tar)
    config = put({"architecture": machine, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
                  "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}}, "config")
    manifest = put({"schemaVersion": 2, "config": config,
                    "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{layer}",
                                "size": tar.stat().st_size}]}, "manifest")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "base"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"oci:{layout}:base"


class Image:
    """rootfs: its files, unpacked; config: as the OCI image specification has it; files: {path: lstat} as built."""

    def __init__(self, rootfs, config):
        self.rootfs, self.config = rootfs, config
        self.files = {}
        for where, folders, names in os.walk(rootfs):
            for name in [*folders, *names]:
                path = pathlib.Path(where, name)
                self.files["/" + str(path.relative_to(rootfs))] = path.lstat()

    def bytes(self):
        return sum(info.st_size for info in self.files.values())

    def argv(self, *args, binds=()):
        """bwrap's: the image's own root read-only, its own user, no capability, no other process, and loopback."""
        more = [word for source, target in binds for word in ("--ro-bind", str(source), target)]
        return ["bwrap", "--unshare-all", "--share-net", "--as-pid-1", "--die-with-parent", "--new-session", "--clearenv",
                "--uid", str(UID), "--gid", str(UID), "--cap-drop", "ALL", "--ro-bind", str(self.rootfs), "/",
                "--proc", "/proc", *more, "--chdir", "/", *self.config["config"]["Entrypoint"], *args]

    def run(self, *args, binds=()):
        """Runs weir in it to its end: CompletedProcess with text."""
        return subprocess.run(self.argv(*args, binds=binds), capture_output=True, text=True, timeout=harness.DEADLINE,
                              stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def built():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="weir-image-"))
    env = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(folder)}
    own = ["buildah", "--root", folder / "storage", "--runroot", folder / "run"]
    try:
        base = as_oci(base_tar(folder), folder / "base")
        run(*own, "bud", "--layers=false", "--build-arg", f"BASE={base}", "-f", ROOT / "helm" / "Dockerfile", "-t", "weir",
            ROOT, env=env, timeout=600)
        run(*own, "push", "weir", f"oci:{folder / 'built'}:weir", env=env)
        run("umoci", "unpack", "--rootless", "--image", f"{folder / 'built'}:weir", folder / "bundle", env=env)
        config = json.loads(run(*own, "inspect", "--type", "image", "weir", env=env))["OCIv1"]
        image = Image(folder / "bundle" / "rootfs", config)
        # as a container runtime does, for what it mounts
        for name in ("proc", "etc"):
            (image.rootfs / name).mkdir(exist_ok=True)
        for name in ("etc/hosts", "etc/resolv.conf"):
            (image.rootfs / name).touch()
        yield image
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------- the running


class _First:
    """The first process of a container, seen from outside: bwrap waits for it and ends as it ends."""

    def __init__(self, outer, pid):
        self.outer, self.pid = outer, pid
        self.poll, self.wait = outer.poll, outer.wait

    def send_signal(self, sig):
        if self.outer.poll() is None:
            os.kill(self.pid, sig)

    def kill(self):
        self.outer.kill()  # and what is in it dies with it


class Contained(harness.Weir):
    """A harness.Weir inside the image. Its configuration is at /etc/weir, mounted as the kubelet mounts a ConfigMap:
    weir.yaml -> ..data/weir.yaml, ..data -> ..1; `files` stand beside it. `binds`: [(file here, path in the container)]."""

    def __init__(self, config, *, image, binds=(), files=None, **kw):
        super().__init__(config, **kw)
        self._image, self._binds, self._files, self._versions = image, list(binds), dict(files or {}), 0
        self.volume = self.dir / "volume"
        self.volume.mkdir()
        for name in ("weir.yaml", *self._files):
            (self.volume / name).symlink_to(f"..data/{name}")

    def _write_config(self, config):
        """A new folder, and `..data` led to it in one step."""
        text = self._complete_text(config) if isinstance(config, str) else self._complete_dict(config)
        self._versions += 1
        old = self.volume / f"..{self._versions - 1}"
        new = self.volume / f"..{self._versions}"
        new.mkdir()
        for name, content in {**self._files, "weir.yaml": text}.items():
            (new / name).write_text(content)
        (self.volume / "..data_tmp").symlink_to(new.name)
        os.replace(self.volume / "..data_tmp", self.volume / "..data")
        shutil.rmtree(old, ignore_errors=True)

    def start(self):
        self._write_config(self._config)
        said, say = os.pipe()
        argv = self._image.argv(binds=[(self.volume, "/etc/weir"), *self._binds])
        argv[1:1] = ["--info-fd", str(say)]
        with open(self.dir / "stdout", "wb") as out, open(self.dir / "stderr", "wb") as err:
            outer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=[say])
        os.close(say)
        with open(said) as f:
            text = f.read()
        if not text:
            outer.wait(harness.DEADLINE)
            raise AssertionError(f"bwrap could not start it:\n{self.stderr}")
        self.process = _First(outer, json.loads(text)["child-pid"])
        try:
            wait_until(self.ready, "readiness of weir", every=0.02)
        except BaseException:
            self._kill()
            raise
        return self

    def swap(self, config, result="ok"):
        """What the kubelet does when the ConfigMap changes, and nothing else; until weir has counted a reload."""
        before = self.metric("weir_config_reloads_total", result=result)
        self._write_config(config)
        wait_until(lambda: self.metric("weir_config_reloads_total", result=result) > before,
                   f"a reload with result={result}")
