"""Two-tower training on several machines: ``python -m training.distributed --data FILE --out FOLDER``.

Each worker is one process that is told the cluster and its place in it by ``TF_CONFIG``, as TensorFlow's own tools set
it; start the same command on each. Without ``TF_CONFIG``, ``--workers N`` starts N of them on this machine.

Every worker reads all events and makes the same batches. Of each batch it learns from its share of the rows, with the
candidates of the whole batch; gradients are summed over workers before each step. So the result is the same on all, and
that of one machine up to the order of sums where the rows of a batch can be divided evenly; else the rows left over,
fewer than there are workers, wait for another epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from marquee.errors import MarqueeError
from training.interactions import Interactions
from training.recommender import Epoch, Recommender, model_class

MODEL = "two_tower"
POLL_SECONDS = 0.1


def train_here(train: Interactions, settings: dict[str, Any], on_epoch: Callable[[Epoch], None] | None) -> Recommender:
    """Fit with the workers of ``TF_CONFIG``, of which this process is one; alone where there is none.

    Raises:
        MarqueeError: a batch has fewer rows than there are workers.
    """
    from training.neural import LazyAdam, seeded, tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before any other operation, as it starts the servers
    from training.history_towers import HistoryNetwork, event_rows

    model: Any = model_class(MODEL)(**settings)
    wanted = model.settings
    workers = strategy.num_replicas_in_sync
    rows = wanted.batch // wanted.length
    if rows < workers:
        raise MarqueeError(f"a batch of {wanted.batch} events has {rows} rows for {workers} workers; raise batch")
    seeded(wanted.seed)
    with strategy.scope():
        network = HistoryNetwork(train, wanted)
        optimizer = LazyAdam(wanted.learning_rate)
        optimizer.build(network.trainable_variables)
    step = _step(strategy, network, optimizer, event_rows(train, wanted, 1, workers).element_spec)
    for number in range(1, wanted.epochs + 1):
        losses = [step(batch) for batch in event_rows(train, wanted, number, workers)]
        if on_epoch:
            on_epoch(Epoch(number, wanted.epochs, float(tf.add_n(losses) / len(losses))))
    model.take(network, train)
    return model  # type: ignore[no-any-return]


def _step(strategy: Any, network: Any, optimizer: Any, spec: Any) -> Any:
    from training.neural import tf

    workers = strategy.num_replicas_in_sync

    def replica_step(batch: Any) -> Any:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        part = batch | {"part": (replica, workers), "count": tf.math.count_nonzero(batch["targets"])}
        with tf.GradientTape() as tape:
            loss = network.compute_loss(part, training=True)
        variables = network.trainable_variables
        # Keras sums the gradients of all replicas.
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    @tf.function(input_signature=[spec])
    def step(batch: Any) -> Any:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica_step, args=(batch,)), axis=None)

    return step


def run_local(workers: int, command: list[str], out: Path, timeout: float | None = None) -> None:
    """Run ``command`` as so many workers on this machine, each with its ``TF_CONFIG``; what they say is in ``out``.

    All end with the first that fails, or when the time is over; no other process is touched.

    Raises:
        MarqueeError: a worker failed or the time was over; names its log.
    """
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    until = None if timeout is None else time.monotonic() + timeout
    with ExitStack() as open_files:
        children = []
        for index in range(workers):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            log = open_files.enter_context((out / f"worker-{index}.log").open("w"))
            environment = os.environ | {"TF_CONFIG": json.dumps(task)}
            children.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        try:
            _wait(children, out, until)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()


def _wait(children: list[subprocess.Popen[bytes]], out: Path, until: float | None) -> None:
    while any(child.poll() is None for child in children):
        # A worker whose peer has gone waits for it for ever.
        for index, child in enumerate(children):
            if child.poll():
                raise MarqueeError(f"worker {index} failed; {out / f'worker-{index}.log'} says why")
        if until is not None and time.monotonic() > until:
            raise MarqueeError(f"the workers were not done in time; their logs are in {out}")
        time.sleep(POLL_SECONDS)
    for index, child in enumerate(children):
        if child.returncode:
            raise MarqueeError(f"worker {index} failed; {out / f'worker-{index}.log'} says why")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _work(asked: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Be one worker, or the only one: fit, and write the model (the first worker) and what came of it (each)."""
    from training.harness.reading import Reading, read_events

    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    index = int(config.get("task", {}).get("index", 0))
    train = read_events(asked.data, Reading()).interactions
    epochs: list[dict[str, float]] = []

    def told(epoch: Epoch) -> None:
        epochs.append(dataclasses.asdict(epoch))
        sys.stderr.write(f"epoch {epoch.number} of {epoch.of}: loss {epoch.loss:.4f}\n")

    model = train_here(train, settings, told)
    digest = hashlib.sha256(b"".join(value.tobytes() for _, value in sorted(model.state().items()))).hexdigest()
    if index == 0:
        model.save(asked.out)
    found = {"worker": index, "weights": digest, "epochs": epochs}
    (asked.out / f"worker-{index}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.distributed", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="table of users, items and times; CSV or Parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and the workers' logs")
    parser.add_argument("--workers", type=int, default=1, help="how many to start here; not with TF_CONFIG")
    parser.add_argument("--settings", default="{}", help='the model\'s settings as JSON, such as {"epochs": 4}')
    parser.add_argument("--timeout", type=float, default=None, help="seconds after which local workers are ended")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    asked = _arguments(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    try:
        settings = json.loads(asked.settings)
        if asked.workers > 1 and "TF_CONFIG" not in os.environ:
            command = [sys.executable, "-m", "training.distributed", "--data", str(asked.data), "--out", str(asked.out)]
            run_local(asked.workers, [*command, "--settings", asked.settings], asked.out, asked.timeout)
        else:
            _work(asked, settings)
    except (MarqueeError, json.JSONDecodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
