"""Spark in this process: one session, with its files, metastore and log under ``home/spark``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final

from marquee.errors import MarqueeError, WarehouseBusy
from marquee.java import first_line, java_home
from marquee.settings import Settings

_LOOPBACK: Final = "127.0.0.1"


def session(settings: Settings) -> Any:
    """The one session of this process, with files, metastore and log under ``home/spark``; dbt finds it by itself.

    Raises:
        MarqueeError: Java is missing, or Spark does not start.
        WarehouseBusy: another process holds the metastore.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    root = settings.home / "spark"
    active = SparkSession.getActiveSession()
    if active is not None and active.conf.get("spark.marquee.root", "") == str(root):
        return active
    stop()
    root.mkdir(parents=True, exist_ok=True)
    configuration = SparkConf().setMaster(settings.spark_master).setAppName("marquee")
    configuration.setAll(list(_configuration(root).items()))
    is_local = settings.spark_master.startswith("local")
    if is_local:
        configuration.set("spark.driver.host", _LOOPBACK).set("spark.driver.bindAddress", _LOOPBACK)
    # It writes each statement that is refused to the standard error, dbt reports it in one line.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    try:
        SparkContext._ensure_initialized(gateway=_java(configuration, root / "spark.log", is_local))
        spark = SparkSession.builder.config(conf=configuration).enableHiveSupport().getOrCreate()
        spark.sql("show databases").collect()
    except MarqueeError:
        raise
    except Exception as error:
        stop()
        log = root / "spark.log"
        if "Another instance of Derby" in f"{error}{log.read_text(errors='replace') if log.exists() else ''}":
            raise WarehouseBusy(f"{root} is in use by another Spark; wait for it to end, then try again") from None
        raise MarqueeError(f"Spark does not start: {first_line(error)}; see {log}") from None
    return spark


def _java(configuration: Any, log: Path, is_local: bool) -> Any:
    """Spark's Java process, with what it prints in a file."""
    from pyspark.java_gateway import launch_gateway

    wanted = {"JAVA_HOME": str(java_home())} | ({"SPARK_LOCAL_IP": _LOOPBACK} if is_local else {})
    before = {name: os.environ.get(name) for name in wanted}
    # pyspark passes this process's environment on, and takes no other.
    os.environ.update(wanted)
    try:
        with log.open("w", encoding="utf-8") as file:
            return launch_gateway(configuration, {"stderr": file, "stdout": file})  # type: ignore[no-untyped-call]
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def stop() -> None:
    """End the session and its Java process: that frees its memory and the metastore."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        active.stop()
    gateway = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(timeout=60)
        SparkContext._gateway = SparkContext._jvm = None


def _configuration(root: Path) -> dict[str, str]:
    java = f"-Dderby.stream.error.file={root / 'derby.log'} -Duser.timezone=UTC"
    return {
        "spark.marquee.root": str(root),
        "spark.driver.extraJavaOptions": java,
        "spark.driver.memory": "2g",
        "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={root / 'metastore'};create=true",
        "spark.local.dir": str(root / "scratch"),
        "spark.sql.warehouse.dir": str(root / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.sources.default": "parquet",
        "spark.sql.sources.partitionOverwriteMode": "dynamic",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # Dates before 1900 may stand in a catalogue.
        "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
        "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }


def require_pyspark() -> None:
    """Raise a ``MarqueeError`` that says how to install it when pyspark or dbt-spark is missing."""
    try:
        import pyspark  # noqa: F401
        from dbt.adapters import spark  # noqa: F401
    except ImportError:
        raise MarqueeError(
            "Spark is not installed here: install it with `uv pip install --require-hashes -r requirements/spark.txt`"
        ) from None
