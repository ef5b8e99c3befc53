"""What the TensorFlow models share: one compiled training step, epochs with progress, resuming, early stopping."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS is a Keras 2 library and refuses Keras 3.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from training.recommender import Epoch, Fitting, Recommender

keras = tf.keras
tf.get_logger().setLevel("ERROR")  # It warns of every second model in one process that it is a new one.

__all__ = ["Dropout", "LazyAdam", "fit_epochs", "keras", "seeded", "set_weights", "tf", "weights_of"]


def fit_epochs(
    model: Recommender,
    network: Any,
    loss: Callable[[Any], Any],
    batches: Callable[[int], Any],
    optimizer: Any,
    epochs: int,
    fitting: Fitting,
    settle: Callable[[], None] = lambda: None,
) -> None:
    """Minimise a loss over the network's trainable variables.

    A run that is resumed ends with the same weights as one that was not interrupted, as long as ``batches`` depends on
    the epoch's number alone.

    Args:
        model: what ``fitting.validate`` judges; it scores with the network's present weights.
        network: a ``tf.Module`` or Keras model whose variables exist already.
        loss: mean loss of one batch.
        batches: the ``tf.data.Dataset`` of an epoch, numbered from 1.
        optimizer: a Keras optimizer.
        epochs: how many at most.
        fitting: progress, checkpoint and validation.
        settle: called before the model is judged, for what it keeps beside the network's weights.
    """
    variables = list(network.trainable_variables)
    optimizer.build(variables)
    steps = _Progress(network, optimizer, fitting)

    # Traced once for all shapes of batches, where each new shape would cost seconds.
    @tf.function(input_signature=[batches(1).element_spec])
    def step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(batch)
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value

    for number in range(steps.done + 1, epochs + 1):
        if steps.stale > fitting.patience:
            break
        # Losses stay on TensorFlow's side until the epoch ends: reading each would wait for each.
        losses = [step(batch) for batch in batches(number)]
        mean = float(tf.add_n(losses) / len(losses)) if losses else float("nan")
        settle()
        steps.keep(number, model)
        if fitting.on_epoch:
            fitting.on_epoch(Epoch(number, epochs, mean))
    steps.finish()


class LazyAdam(tf.keras.optimizers.Adam):
    """Adam that touches only the rows of an embedding that a batch used, as Keras' own passes over all of them.

    With tens of thousands of items and a few thousand in a batch that is most of a step's time. Rows at rest keep
    their moments, so a rare item's first gradient after a pause counts as if no time had passed.
    """

    def update_step(self, gradient: Any, variable: Any) -> None:
        """Keras calls it for each variable."""
        place = self._index_dict[self._var_key(variable)]
        first, second = self._momentums[place], self._velocities[place]
        step = tf.cast(self.iterations + 1, variable.dtype)
        one, two = tf.cast(self.beta_1, variable.dtype), tf.cast(self.beta_2, variable.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            # One pass over the variable and its moments, where Keras' own makes ten: a third of the time.
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=one**step,
                beta2_power=two**step,
                lr=tf.cast(self.learning_rate, variable.dtype),
                beta1=one,
                beta2=two,
                epsilon=tf.cast(self.epsilon, variable.dtype),
                grad=gradient,
            )
            return
        rate = tf.cast(self.learning_rate, variable.dtype) * tf.sqrt(1 - two**step) / (1 - one**step)
        rows, values = gradient.indices, gradient.values  # Keras has summed the gradients of a row already
        mean = one * tf.gather(first, rows) + (1 - one) * values
        square = two * tf.gather(second, rows) + (1 - two) * values * values
        first.scatter_update(tf.IndexedSlices(mean, rows))
        second.scatter_update(tf.IndexedSlices(square, rows))
        variable.scatter_sub(tf.IndexedSlices(rate * mean / (tf.sqrt(square) + self.epsilon), rows))


class Dropout(tf.Module):
    """Dropout whose generator is a variable, as Keras' own is not: a resumed fit drops what an unbroken one would."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.rate, self.random = rate, tf.random.Generator.from_seed(seed)

    def __call__(self, values: Any, training: bool) -> Any:
        """The values, a share of them 0 and the rest raised to keep the mean; untouched outside training."""
        if not (training and self.rate):
            return values
        return tf.nn.experimental.stateless_dropout(values, self.rate, seed=self.random.make_seeds(1)[:, 0])


def seeded(seed: int) -> None:
    """Make what follows repeatable: initial weights, dropout, and the order of sums."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def weights_of(network: Any) -> dict[str, NDArray[Any]]:
    """The variables in the order in which the network lists them, as ``state`` wants them."""
    return {f"weight_{place:03d}": variable.numpy() for place, variable in enumerate(network.variables)}


def set_weights(network: Any, state: dict[str, NDArray[Any]]) -> None:
    """Put back what ``weights_of`` gave."""
    for place, variable in enumerate(network.variables):
        variable.assign(state[f"weight_{place:03d}"])


class _Progress:
    """Where a fit stands: epochs done, the best weights so far, and both on disk when there is a checkpoint folder."""

    def __init__(self, network: Any, optimizer: Any, fitting: Fitting) -> None:
        self.network, self.fitting = network, fitting
        self.best = [tf.Variable(variable, trainable=False) for variable in network.variables]
        self.counters = {
            "done": tf.Variable(0, dtype=tf.int64),
            "stale": tf.Variable(0, dtype=tf.int64),
            "quality": tf.Variable(-np.inf, dtype=tf.float64),
        }
        self.manager = None
        if fitting.checkpoint:
            kept = tf.train.Checkpoint(network=network, optimizer=optimizer, best=self.best, **self.counters)
            self.manager = tf.train.CheckpointManager(kept, str(fitting.checkpoint), max_to_keep=1)
            self.manager.restore_or_initialize()

    @property
    def done(self) -> int:
        return int(self.counters["done"])

    @property
    def stale(self) -> int:
        return int(self.counters["stale"])

    def keep(self, number: int, model: Recommender) -> None:
        """Note that an epoch is done, and whether it was the best."""
        self.counters["done"].assign(number)
        if self.fitting.validate:
            quality = self.fitting.validate(model)
            better = quality > float(self.counters["quality"])
            self.counters["stale"].assign(0 if better else self.stale + 1)
            if better:
                self.counters["quality"].assign(quality)
                for kept, variable in zip(self.best, self.network.variables, strict=True):
                    kept.assign(variable)
        if self.manager:
            self.manager.save()

    def finish(self) -> None:
        """Give the network the weights of its best epoch."""
        if self.fitting.validate and np.isfinite(float(self.counters["quality"])):
            for kept, variable in zip(self.best, self.network.variables, strict=True):
                variable.assign(kept)
