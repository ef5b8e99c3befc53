"""The ranker's trees fitted by Spark tasks that share the rows, for logs that one machine's memory does not hold twice.

XGBoost's own integration: every task builds the histograms of its rows, and all split by their sum. The trees are those
of one machine up to the order of sums and the cuts of histograms, where rows are not drawn at random for each tree.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from marquee import contract
from marquee.errors import MarqueeError
from training.spark_retrieval import spark_session

LABEL, IS_VALIDATION, FEATURES = "is_clicked", "is_validation", "inputs"
OWN: Final = ("objective", "nthread", "seed")
"""Parameters that Spark's estimator sets itself, or calls otherwise."""


def train_on_spark(
    matrix: NDArray[np.float32],
    clicked: NDArray[np.bool_],
    parameters: Mapping[str, Any],
    rounds: int,
    workers: int,
    is_validation: NDArray[np.bool_] | None = None,
    patience: int | None = None,
) -> xgb.Booster:
    """Boosted trees, as ``xgboost.train`` gives them.

    Args:
        matrix: [n, features] in the contract's order, NaN where unknown. clicked: [n].
        parameters: XGBoost's, as on one machine.
        rounds: trees, at most when ``is_validation`` says which rows decide how many.
        workers: Spark tasks; as many must be able to run at the same time.
        patience: rounds without a lower loss on the validation rows after which no more are tried.

    Raises:
        MarqueeError: Spark or Java is missing, it does not start, it fails, or it runs too few tasks at once.
    """
    import pyarrow as pa

    logging.getLogger("XGBoost-PySpark").setLevel(logging.WARNING)  # it tells all its parameters for each booster
    width = len(contract.RANKER_FEATURES)
    flat = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).ravel())
    offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int32) * width)
    columns = {FEATURES: pa.ListArray.from_arrays(offsets, flat), LABEL: pa.array(clicked.astype(np.float32))}
    chosen = {name: value for name, value in parameters.items() if name not in OWN}
    if is_validation is not None:
        columns[IS_VALIDATION] = pa.array(is_validation)
        chosen |= {"validation_indicator_col": IS_VALIDATION, "early_stopping_rounds": patience}
    with spark_session() as spark:
        from xgboost.spark import SparkXGBClassifier

        _prepare(spark.sparkContext, workers)
        estimator = SparkXGBClassifier(
            features_col=FEATURES,
            label_col=LABEL,
            num_workers=workers,
            n_estimators=rounds,
            random_state=parameters["seed"],
            verbose=False,
            **chosen,
        )
        booster: xgb.Booster = estimator.fit(spark.createDataFrame(pa.table(columns))).get_booster()
    booster.feature_names = list(contract.RANKER_FEATURES)
    return booster


def _prepare(context: Any, workers: int) -> None:
    """See that a local master's tasks find XGBoost, and that all of them can run at once: else Spark waits for ever."""
    if not context.master.startswith("local"):
        return
    if workers > context.defaultParallelism:
        raise MarqueeError(
            f"ranker_workers is {workers}, and {context.master} runs {context.defaultParallelism} tasks at once"
        )
    if "PYSPARK_PYTHON" not in os.environ:
        context.pythonExec = sys.executable
