"""Training throughput: our loop against a plain one, with the same network and batch."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._options import Options
from benchmarks._plain import train
from benchmarks._setting import empty_rows, made_up, setting
from benchmarks._timing import in_turns
from poisonbench.core.rng import Key, seeded
from poisonbench.learn.device import resolve
from poisonbench.nets.resnet import PreActResNet18
from poisonbench.report.benchmarks import Comparison

BATCH = 128


def measure(options: Options, *, rows: int = 4 * BATCH, repeats: int = 2) -> Iterator[Comparison]:
    """Yield one comparison for each precision of ours; one epoch over made-up 32x32 rows."""
    made = made_up(rows, (3, 32, 32))
    with seeded(Key.root(100)):
        net = PreActResNet18(pool="average", norm="batch").build(empty_rows((3, 32, 32), 10)).net.to(resolve("auto"))
    for precision in ("bf16", "fp32"):
        ours = setting("learner=standard", "learner.epochs=1", f"learner.precision={precision}", data=made)
        costs = in_turns(
            lambda ours=ours: ours.learner.fit(ours.data, ours.combine, Key.root(100)),  # type: ignore[misc]
            lambda: train(net, *made, batch_size=BATCH, workers=2),
            repeats=repeats,
        )
        yield Comparison(
            work=f"PreAct-ResNet-18, batch {BATCH}, one epoch over {rows} rows",
            ours=f"learner=standard in {precision}",
            alternative="DataLoader with 2 workers, PIL, fp32, NCHW",
            unit="s",
            ours_cost=costs.ours,
            alternative_cost=costs.alternative,
            facts={"images_per_second_ours": rows / min(costs.ours), "images_per_second_alternative": rows / min(costs.alternative)},
        )
