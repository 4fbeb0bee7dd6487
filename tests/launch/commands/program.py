"""The real program, run as a user runs it: alone, with ranks as threads, under mpirun. For the tests of this folder,
whose first argument is the program."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
MODEL = os.path.join(ROOT, "models", "ferry-tiny-v3")
sys.path.append(os.path.join(ROOT, "tests", "support"))

from slack import TIME_SCALE, deadline, send, slack  # noqa: E402, F401

DATA = os.path.join(ROOT, "tests", "data", "ferry-tiny-v3")
PROGRAM = os.path.abspath(sys.argv[1])
# What this test starts has its mark: others start the same program at the same time.
TEST = "TOKENFERRY_TEST"
os.environ[TEST] = str(os.getpid())
LIMIT = 100  # seconds for one run on an idle machine: far more than it takes
# As the README tells users to start ranks on one host.
MPIRUN = ["sh", "-c", f'. "{ROOT}/launch/scripts/mpirun_env.sh"; exec mpirun -n "$TF_NUM_RANKS" "$@"', "mpirun"]
# The program that starts mpirun itself.
LAUNCH = ["sh", "-c", f'. "{ROOT}/launch/scripts/mpirun_env.sh"; exec "$@"', "sh"]


class Job:
    """A running program: `ranks` threads of one process, as many processes of mpirun, or what launch makes of it."""

    def __init__(self, args, ranks=1, via="local", env=None, user=None, program=PROGRAM, stdin=subprocess.DEVNULL):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_COMM_", "PMI"))}
        environment.update(env or {}, TF_NUM_RANKS=str(ranks))
        command = [program, *map(str, args)]
        if via == "mpi":
            command = MPIRUN + command
        elif via == "launch":
            command = LAUNCH + command
        elif ranks > 1:
            command += ["--transport", "local", "--ranks", str(ranks)]
        self.via, self.out, self.err_lines, self.first_error = via, b"", [], None
        self.process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=environment, user=user)
        # Daemons, so that a program that nobody ends does not keep a test that has failed from ending.
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_err)]
        for reader in self.readers:
            reader.start()

    def _read_out(self):
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            self.out += chunk

    def _read_err(self):
        for line in self.process.stderr:
            self.err_lines.append(line.decode(errors="replace").rstrip("\n"))
            if self.first_error is None and line.startswith(b"tokenferry: "):
                self.first_error = time.monotonic()

    def wait(self, limit=LIMIT):
        limit, start, end = slack(limit), time.monotonic(), None
        while self.process.poll() is None and time.monotonic() < start + limit:
            time.sleep(0.01)
            if self.via == "mpi" and end is None and self.first_error is not None and not self.ranks():
                end = time.monotonic()  # mpirun itself may take a while longer
        if self.process.poll() is None:
            self.process.kill()
        self.status = self.process.wait()
        end = end or time.monotonic()
        for reader in self.readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        self.ended = end  # the last rank; steady clock
        # From the first error to the end of all ranks.
        self.seconds_to_end = end - self.first_error if self.first_error is not None else 0.0
        assert time.monotonic() < start + limit + 10, f"did not end:\n{self.err}"
        return self

    def ranks(self):
        """The processes of mpirun that have not ended, by rank."""
        return ranks_of(self.process.pid)

    @property
    def err(self):
        return "\n".join(self.err_lines)

    @property
    def errors(self):
        """The lines by which the program, not mpirun, says what is wrong."""
        return [line for line in self.err_lines if line.startswith("tokenferry: ")]

    def text(self):
        return self.out.decode()  # strictly UTF-8

    def json(self):
        return json.loads(self.text())


def run(*args, ranks=1, via="local", **more):
    return Job(args, ranks, via, **more).wait()


class ProgramTest(unittest.TestCase):
    """A test with a folder of its own, which is gone afterwards."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="tokenferry-test-")
        self.addCleanup(shutil.rmtree, self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
        return self.path(name)

    def write_ids(self, name, *prompts):
        return self.write(name, json.dumps({"prompts": [{"input_ids": list(ids)} for ids in prompts]}))

    def succeed(self, *args, **how):
        done = run(*args, **how)
        self.assertEqual((done.status, done.errors), (0, []), f"{args} {how}\n{done.err}")
        return done


def children(parent):
    """Its child processes that have not ended."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                state, its_parent = f.read().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue  # it has ended meanwhile
        if int(its_parent) == parent and state not in "ZX":
            found.append(int(pid))
    return found


def ranks_of(mpirun):
    """The processes of an mpirun that have not ended, by rank."""
    found = {}
    for pid in children(mpirun):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                rank = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)\0", f.read())
        except OSError:
            continue  # it has ended meanwhile
        if rank:
            found[int(rank[1])] = pid
    return found


def processes_of(program):
    """Processes of this test that run `program` (zombies have no command line)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f, open(f"/proc/{pid}/environ", "rb") as e:
                if f.read().split(b"\0")[0] == program.encode() and f"{TEST}={os.environ[TEST]}".encode() in e.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            pass  # it has ended meanwhile
    return found


class ModelCopy:
    """The model of the tests with some of its files changed; the others are links."""

    def __init__(self, path):
        self.path = path
        os.mkdir(path)
        for name in os.listdir(MODEL):
            os.symlink(os.path.join(MODEL, name), self.file(name))

    def file(self, name):
        return os.path.join(self.path, name)

    def read(self, name):
        with open(self.file(name), "rb") as f:
            return f.read()

    def write(self, name, content):
        os.unlink(self.file(name))
        with open(self.file(name), "wb") as f:
            f.write(content)

    def change_json(self, name, change):
        value = json.loads(self.read(name))
        change(value)
        self.write(name, json.dumps(value).encode())

    def shard_of(self, tensor):
        return json.loads(self.read("model.safetensors.index.json"))["weight_map"][tensor]

    def change_header(self, shard, change):
        content = self.read(shard)
        (size,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8:8 + size])
        change(header)
        text = json.dumps(header).encode()
        text = text.ljust((len(text) + 7) // 8 * 8)
        self.write(shard, struct.pack("<Q", len(text)) + text + content[8 + size:])

    def poke(self, tensor, offset, value):
        """Overwrites bytes of a tensor. Returns the shard's name."""
        shard = self.shard_of(tensor)
        content = bytearray(self.read(shard))
        (size,) = struct.unpack_from("<Q", content)
        begin, end = json.loads(bytes(content[8:8 + size]))[tensor]["data_offsets"]
        assert offset + len(value) <= end - begin
        content[8 + size + begin + offset:8 + size + begin + offset + len(value)] = value
        self.write(shard, bytes(content))
        return shard


def read_safetensors(path):
    """name -> (dtype, shape, bytes)"""
    with open(path, "rb") as f:
        content = f.read()
    (size,) = struct.unpack_from("<Q", content)
    tensors = {}
    for name, info in json.loads(content[8:8 + size]).items():
        begin, end = info.get("data_offsets", (0, 0))
        if name != "__metadata__":
            tensors[name] = (info["dtype"], info["shape"], content[8 + size + begin:8 + size + end])
    return tensors


def main():
    # Who is started in the background of a script inherits that SIGINT is ignored; the programs here must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
