"""A server whose front starts the ranks: `tokenferry launch`."""

import os
import re

from server import Server

RANKS = 3


class LaunchedServer(Server):
    """`tokenferry launch -- serve`, under mpirun or with ranks as threads of one process; ready when constructed."""

    def __init__(self, *flags, via="mpi", restart="on-failure", before=(), **more):
        self.launched_via = via
        words = ["-n", RANKS] if via == "mpi" else []
        ranks = [] if via == "mpi" else ["--ranks", RANKS]
        launch = ["launch", *words, "--restart", restart, *before, "--"]
        super().__init__(*flags, *ranks, launch=launch, ranks=RANKS, via="launch", **more)

    def children(self, parent):
        """The processes that have not ended, by parent."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    state, ppid = f.read().rsplit(")", 1)[1].split()[:2]
            except OSError:
                continue  # it has ended meanwhile
            if int(ppid) == parent and state not in "ZX":
                found.append(int(pid))
        return found

    def main_process(self):
        """mpirun, or the process whose threads the ranks are."""
        (pid,) = self.children(self.job.process.pid)
        return pid

    def ranks(self):
        """By rank."""
        if self.launched_via == "local":
            return {0: self.main_process()}
        found = {}
        for pid in self.children(self.main_process()):
            with open(f"/proc/{pid}/environ", "rb") as f:
                rank = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)\0", f.read())
            if rank:
                found[int(rank[1])] = pid
        return found

    def front(self):
        return self.job.process.pid
