"""A server whose front starts the ranks: `tokenferry launch`."""

from server import Server  # first: it finds the next
from program import children, ranks_of

RANKS = 3


class LaunchedServer(Server):
    """`tokenferry launch -- serve`, under mpirun or with ranks as threads of one process; ready when constructed."""

    def __init__(self, *flags, via="mpi", restart="on-failure", before=(), **more):
        self.launched_via = via
        words = ["-n", RANKS] if via == "mpi" else []
        ranks = [] if via == "mpi" else ["--ranks", RANKS]
        launch = ["launch", *words, "--restart", restart, *before, "--"]
        super().__init__(*flags, *ranks, launch=launch, ranks=RANKS, via="launch", **more)

    def main_process(self):
        """mpirun, or the process whose threads the ranks are."""
        (pid,) = children(self.job.process.pid)
        return pid

    def ranks(self):
        """By rank."""
        if self.launched_via == "local":
            return {0: self.main_process()}
        return ranks_of(self.main_process())

    def front(self):
        return self.job.process.pid
