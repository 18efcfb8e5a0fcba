"""Workers of a sweep."""

import sys
from multiprocessing.connection import Connection

from poisonbench.sweep.processes import SERVER


def tell(pipe: Connection) -> None:
    pipe.send("poisonbench.pipeline" in sys.modules)


def test_a_worker_has_its_imports_behind_it_when_it_starts():
    ours, theirs = SERVER.Pipe()
    worker = SERVER.Process(target=tell, args=(theirs,))
    worker.start()
    assert ours.recv()
    worker.join()
