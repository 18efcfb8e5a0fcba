"""Workers of a sweep."""

import sys
from multiprocessing.connection import Connection

from poisonbench.sweep.cell import Outcome
from poisonbench.sweep.processes import SERVER, Processes


class Quiet:
    """Hears nothing."""

    def log(self, cell: int, level: int, message: str) -> None:
        pass

    def progress(self, cell: int, label: str, done: int, total: int) -> None:
        pass

    def finished(self, number: int, cell: Outcome) -> None:
        pass


def tell(pipe: Connection) -> None:
    pipe.send("poisonbench.runner.pipeline" in sys.modules)


def test_a_worker_has_its_imports_behind_it_when_it_starts():
    ours, theirs = SERVER.Pipe()
    worker = SERVER.Process(target=tell, args=(theirs,))
    worker.start()
    assert ours.recv()
    worker.join()


def test_each_sweep_has_the_environment_that_it_is_asked_in(tmp_path, monkeypatch):
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("PICTURES", str(tmp_path / name))
        (cell,) = Processes(workers=1, cell_minutes=None).swept([["task=image_folder", "task.root=$PICTURES", f"results_dir={tmp_path}"]], Quiet())
        assert f"{tmp_path / name} contains no class folders" in cell.sentence
