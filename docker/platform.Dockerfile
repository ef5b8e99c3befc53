# The platform image: Airflow roles, dbt, Great Expectations, Feast and training. Build from the repository root:
#   docker build --platform linux/amd64 -f docker/platform.Dockerfile -t marquee-platform:0.1.0 .

FROM python:3.11.14-slim-bookworm AS build

# Every pin in requirements/ holds for linux/x86_64 only; elsewhere the install would succeed and install nothing.
RUN test "$(uname -m)" = x86_64 || { echo "build with --platform linux/amd64" >&2; exit 1; }
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never

WORKDIR /src

# Dependencies change rarely: a layer of their own. --no-deps because the lock is complete and names the CPU builds
# where some packages ask for "tensorflow"; bytecode because the heavy imports are 3 to 5 times slower without it.
COPY requirements/platform.txt requirements/platform.txt
RUN uv venv --python /usr/local/bin/python /opt/venv \
    && uv pip install --python /opt/venv/bin/python --require-hashes --no-deps --compile-bytecode \
        -r requirements/platform.txt

# The build backend comes hashed too, so nothing unpinned is fetched while the wheel is built.
COPY docker/build.txt docker/build.txt
RUN uv venv --python /usr/local/bin/python /opt/build \
    && uv pip install --python /opt/build/bin/python --require-hashes --no-deps -r docker/build.txt

COPY pyproject.toml README.md ./
COPY marquee marquee
COPY ingestion ingestion
COPY expectations expectations
COPY features features
COPY training training
COPY serving serving

# marquee/settings.py looks for dbt_project/ and dags/ beside the packages. In site-packages they would be importable
# names (dbt imports every top-level module that starts with "dbt_"), so the wheel is installed, not editable, into
# /opt/marquee, and one .pth line puts that folder on the path.
RUN uv build --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheels \
    && uv pip install --python /opt/venv/bin/python --no-deps --compile-bytecode --target /opt/marquee /wheels/*.whl \
    && echo /opt/marquee > /opt/venv/lib/python3.11/site-packages/marquee.pth


FROM python:3.11.14-slim-bookworm

# The same user id in both images: they share the state volume.
RUN useradd --create-home --uid 10001 marquee \
    && install -d -o marquee -g marquee /var/lib/marquee /var/lib/marquee/lineage

COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/marquee /opt/marquee
COPY dbt_project /opt/marquee/dbt_project
COPY dags /opt/marquee/dags

# State under one folder, telemetry off, threads polite: the values of marquee.settings.quiet_environment, because the
# Airflow roles start without the marquee command.
ENV PATH=/opt/venv/bin:/opt/marquee/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONWARNINGS=ignore \
    MARQUEE_HOME=/var/lib/marquee \
    AIRFLOW_HOME=/var/lib/marquee/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/marquee/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__PARALLELISM=4 \
    AIRFLOW__API__WORKERS=1 \
    AIRFLOW__OPENLINEAGE__DISABLED=False \
    AIRFLOW__OPENLINEAGE__DISABLE_SOURCE_CODE=True \
    AIRFLOW__OPENLINEAGE__NAMESPACE=marquee \
    AIRFLOW__OPENLINEAGE__TRANSPORT='{"type": "file", "log_file_path": "/var/lib/marquee/lineage/airflow.jsonl", "append": true}' \
    BENTOML_HOME=/var/lib/marquee/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    DO_NOT_TRACK=1 \
    FEAST_USAGE=False \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    OTEL_SDK_DISABLED=true \
    OMP_WAIT_POLICY=PASSIVE \
    TF_USE_LEGACY_KERAS=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    TF_ENABLE_ONEDNN_OPTS=0

USER marquee
WORKDIR /var/lib/marquee
VOLUME /var/lib/marquee

# For a plain `docker run`: the settings are readable and the state folder is writable. Compose checks each role itself.
HEALTHCHECK --interval=60s --timeout=10s --start-period=10s --retries=3 \
    CMD ["python", "-c", "from marquee.settings import load_settings; (load_settings().home / '.health').touch()"]

CMD ["marquee", "--help"]
