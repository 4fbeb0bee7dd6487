"""What serving promises, for longer than every day has time for: `ctest -C long`."""

import itertools
import json
import os
import subprocess
import sys

from server import PROGRAM  # first: it finds the next
from program import ROOT, ProgramTest, main
from ranks_test import LONGEST, SEED, SMALL_CACHE, Prefixes, check_bytes, requests, undisturbed


class LongTest(ProgramTest):
    def test_the_same_bytes(self):
        """Every number of ranks with every number of requests at a time, with and without room, shared prefixes apart or not."""
        print("seed", SEED)
        bodies = requests()
        expected = undisturbed(self, bodies)
        for (ranks, via), flags, at_a_time, prefixes in itertools.product(
                ((1, "local"), (3, "local"), (4, "local"), (1, "mpi"), (3, "mpi"), (4, "mpi")), (SMALL_CACHE, LONGEST), (1, 8, 64), Prefixes):
            check_bytes(self, expected, bodies, ranks, via, flags, at_a_time, prefixes)

    def test_ten_minutes_of_abuse(self):
        """What a canary gets, and that sockets and blocks are back, the measurement asserts itself; memory is one of its targets."""
        report = self.path("report.json")
        subprocess.run([sys.executable, os.path.join(ROOT, "bench", "serve", "measure.py"), PROGRAM, "--only", "abuse", "--minutes", "10", "--json", report], check=True)
        with open(report) as f:
            targets = json.load(f)["targets"]
        self.assertEqual(len(targets), 4, targets)  # the front and three ranks
        self.assertEqual([row for row in targets if not row["kept"]], [])


if __name__ == "__main__":
    main()
