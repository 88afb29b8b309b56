"""A limit on memory as a container runtime sets it, and weir under it.

    with MemoryLimit(bytes) as limit:
        with Limited(config, limit=limit) as w: ...
        limit.peak(), limit.kills()

The kernel's own memory cgroup where this process may make one, v1 or v2. Where it may not, RLIMIT_DATA, which bounds what
weir allocates but not what the kernel holds for it; `kind` says which it is.
"""
import itertools
import os
import pathlib
import resource
import subprocess

import harness
from harness import wait_until

_numbers = itertools.count(1)


class _V1:
    kind = "cgroup v1"
    root = pathlib.Path("/sys/fs/cgroup/memory")
    peak_file, usage_file, kills_file = "memory.max_usage_in_bytes", "memory.usage_in_bytes", "memory.oom_control"

    def set(self, folder, limit):
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        for name, value in (("memory.memsw.limit_in_bytes", limit), ("memory.kmem.tcp.limit_in_bytes", 1 << 40)):
            if (folder / name).exists():  # the latter counts what sockets hold, apart
                (folder / name).write_text(str(value))


class _V2:
    kind = "cgroup v2"
    root = pathlib.Path("/sys/fs/cgroup")
    peak_file, usage_file, kills_file = "memory.peak", "memory.current", "memory.events"

    def set(self, folder, limit):
        (folder / "memory.max").write_text(str(limit))
        if (folder / "memory.swap.max").exists():
            (folder / "memory.swap.max").write_text("0")


class MemoryLimit:
    def __init__(self, limit):
        self.limit, self._folder, self._how, self._usages = limit, None, None, 0
        for how in (_V1(), _V2()):
            folder = how.root / f"weir-test-{os.getpid()}-{next(_numbers)}"
            try:
                folder.mkdir()
            except OSError:
                continue
            try:
                how.set(folder, limit)
            except OSError:
                folder.rmdir()
                continue
            self._how, self._folder = how, folder
            break
        self.kind = self._how.kind if self._how else "RLIMIT_DATA"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._folder:
            wait_until(self._removed, "the cgroup to be empty")

    def _removed(self):
        try:
            self._folder.rmdir()
        except OSError:
            return False
        return True

    def enter(self):
        """Called in the process that is to be limited."""
        if self._folder:
            (self._folder / "cgroup.procs").write_text("0")
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (self.limit, self.limit))

    def _number(self, name):
        return int((self._folder / name).read_text())

    def peak(self, w=None):
        """The most that was charged, the kernel's part too where it is a cgroup."""
        if not self._folder:
            return w.peak_rss_kb() * 1024
        if (self._folder / self._how.peak_file).exists():
            return self._number(self._how.peak_file)
        return self._number(self._how.usage_file)  # before Linux 5.19 nothing remembers it

    def usage(self, w=None):
        return self._number(self._how.usage_file) if self._folder else w.rss_kb() * 1024

    def sockets(self):
        """The most that sockets held, where that is counted apart (v1)."""
        file = self._folder / "memory.kmem.tcp.max_usage_in_bytes" if self._folder else None
        return int(file.read_text()) if file and file.exists() else None

    def kills(self):
        if not self._folder:
            return 0
        words = (self._folder / self._how.kills_file).read_text().split()
        return int(words[words.index("oom_kill") + 1])


class Limited(harness.Weir):
    """A harness.Weir under a MemoryLimit. Its access log goes nowhere: a file's pages would be charged to it too."""

    def __init__(self, config, *, limit, **kw):
        super().__init__(config, **kw)
        self.limit = limit

    def start(self):
        self._write_config(self._config)
        with open(os.devnull, "wb") as out, open(self.dir / "stderr", "wb") as err:
            self.process = subprocess.Popen([str(harness.BIN), "-c", str(self.config_path)], stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=err, cwd=self.dir, preexec_fn=self.limit.enter,
                                            env={**os.environ, **self._env})
        try:
            wait_until(self.ready, "readiness of weir", every=0.02)
        except BaseException:
            self._kill()
            raise
        return self
