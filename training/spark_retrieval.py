"""Spark for training: its session, and its ALS, for histories that are too many for one machine's processors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.sparse as sparse

from marquee.errors import MarqueeError
from marquee.java import first_line, java_home
from marquee.settings import Settings, load_settings
from training.interactions import Floats

_LOOPBACK: Final = "127.0.0.1"


def als_factors(
    matrix: sparse.csr_matrix, factors: int, regularisation: float, alpha: float, iterations: int, seed: int
) -> tuple[Floats, Floats]:
    """[U, d] and [I, d] vectors by Spark's ALS for implicit feedback; zeros for who or what has no event.

    It minimises what ``ALS`` does with the scaling "events": Spark multiplies λ by the positive events of a row.

    Args:
        matrix: [U, I] r, the strength of what was taken.
        factors: d.
        regularisation: λ.
        alpha: the confidence of a pair is 1 + alpha·|r|.
        iterations: both sides are solved so often, items first.
        seed: of the first vectors.

    Raises:
        MarqueeError: Spark or Java is missing, or Spark does not start.
    """
    import pyarrow as pa

    users = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    ratings = pa.table({"user": users, "item": matrix.indices.astype(np.int64), "rating": matrix.data})
    with spark_session() as spark:
        from pyspark.ml.recommendation import ALS

        checkpoints = load_settings().home / "spark" / "checkpoints"
        spark.sparkContext.setCheckpointDir(str(checkpoints))
        als = ALS(userCol="user", itemCol="item", ratingCol="rating", implicitPrefs=True, rank=factors, seed=seed)
        # Without checkpoints the plan grows with each iteration until Java's stack overflows.
        als.setMaxIter(iterations).setRegParam(regularisation).setAlpha(alpha).setCheckpointInterval(5)
        als.setNumBlocks(spark.sparkContext.defaultParallelism)
        found = als.fit(spark.createDataFrame(ratings))
        sides = (found.userFactors.toArrow(), found.itemFactors.toArrow())
        shutil.rmtree(checkpoints, ignore_errors=True)  # Spark leaves the last one
    vectors = [np.zeros((count, factors), np.float32) for count in matrix.shape]
    for side, rows in zip(vectors, sides, strict=True):
        flat = rows.column("features").combine_chunks().flatten().to_numpy()
        side[rows.column("id").to_numpy()] = flat.reshape(-1, factors)
    return vectors[0], vectors[1]


@contextmanager
def spark_session(settings: Settings | None = None) -> Iterator[Any]:
    """The Spark session that this process has already, or a new one for as long as the block lasts.

    Args:
        settings: where its master and its folder come from; the installation's unless given.

    Raises:
        MarqueeError: Spark or Java is missing, or Spark does not start, or fails inside the block.
    """
    try:
        from py4j.protocol import Py4JError  # type: ignore[import-untyped]
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise MarqueeError(
            "Spark is not installed here: install it with `uv pip install --require-hashes -r requirements/spark.txt`"
        ) from None
    running = SparkSession.getActiveSession()
    spark = running or _start(settings or load_settings())
    try:
        yield spark
    except (Py4JError, PySparkException) as error:
        raise MarqueeError(f"Spark failed: {first_line(error)}") from None
    finally:
        if running is None:
            _stop(spark)


def _start(settings: Settings) -> Any:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    root, java = settings.home / "spark", java_home()
    root.mkdir(parents=True, exist_ok=True)
    wanted = SparkConf().setMaster(settings.spark_master).setAppName("marquee")
    wanted.setAll(list(_configuration(root, settings.spark_master.startswith("local")).items()))
    log = root / "retrieval.log"
    before = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = str(java)  # pyspark passes this process's environment on, and takes no other
    try:
        with log.open("w", encoding="utf-8") as file:
            gateway = launch_gateway(wanted, {"stderr": file, "stdout": file})  # type: ignore[no-untyped-call]
        SparkContext._ensure_initialized(gateway=gateway)
        return SparkSession.builder.config(conf=wanted).getOrCreate()
    except Exception as error:
        raise MarqueeError(f"Spark does not start: {first_line(error)}; see {log}") from None
    finally:
        if before is None:
            del os.environ["JAVA_HOME"]
        else:
            os.environ["JAVA_HOME"] = before


def _stop(spark: Any) -> None:
    """End the session and its Java process, which holds memory."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    spark.stop()
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(timeout=60)
        SparkContext._gateway = SparkContext._jvm = None


def _configuration(root: Path, is_local: bool) -> dict[str, str]:
    local = {"spark.driver.host": _LOOPBACK, "spark.driver.bindAddress": _LOOPBACK} if is_local else {}
    return local | {
        "spark.driver.memory": "2g",
        "spark.local.dir": str(root / "scratch"),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.warehouse.dir": str(root / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
