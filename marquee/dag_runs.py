"""Run DAGs in this process, one after the other, as ``airflow dags test`` runs one: ``python -m marquee.dag_runs``.

Airflow takes some ten seconds to start; the demo pays that once, not once a DAG.
"""

from __future__ import annotations

import json
import sys

from marquee.errors import MarqueeError
from marquee.settings import ROOT


def run_dags(dag_ids: list[str], conf: dict[str, str]) -> None:
    """Run each DAG to its end; Airflow's log goes to stdout.

    Raises:
        MarqueeError: a DAG file does not import, or a task failed.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(ROOT / "dags"))
    if bag.import_errors:
        raise MarqueeError(f"DAG import failed: {next(iter(bag.import_errors.values()))}")
    for dag_id in dag_ids:
        # A parameter that the DAG does not declare would be refused.
        declared = {name: value for name, value in conf.items() if name in bag.dags[dag_id].params}
        run = bag.dags[dag_id].test(run_conf=declared)
        if run.state != "success":
            failed = [task.task_id for task in run.get_task_instances() if task.state == "failed"]
            raise MarqueeError(f"task {dag_id}.{', '.join(failed)} failed")


if __name__ == "__main__":
    try:
        run_dags(sys.argv[2:], json.loads(sys.argv[1]))
    except MarqueeError as error:
        sys.stdout.write(f"MARQUEE ERROR {error}\n")
        sys.exit(1)
