# The serving image: the scoring service and what it imports; no TensorFlow, Airflow, dbt or Great Expectations.
# Build from the repository root:
#   docker build --platform linux/amd64 -f docker/serving.Dockerfile -t marquee-serving:0.1.0 .

FROM python:3.11.14-slim-bookworm AS build

# Every pin in requirements/ holds for linux/x86_64 only; elsewhere the install would succeed and install nothing.
RUN test "$(uname -m)" = x86_64 || { echo "build with --platform linux/amd64" >&2; exit 1; }
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never

WORKDIR /src

COPY requirements/serving.txt requirements/serving.txt
RUN uv venv --python /usr/local/bin/python /opt/venv \
    && uv pip install --python /opt/venv/bin/python --require-hashes --no-deps --compile-bytecode \
        -r requirements/serving.txt

COPY docker/build.txt docker/build.txt
RUN uv venv --python /usr/local/bin/python /opt/build \
    && uv pip install --python /opt/build/bin/python --require-hashes --no-deps -r docker/build.txt

# The wheel is built from these packages alone: what the image must not hold is never copied in. ingestion is here
# for the event stream that POST /v1/events appends to.
COPY pyproject.toml README.md ./
COPY marquee marquee
COPY ingestion ingestion
COPY features features
COPY training training
COPY serving serving
RUN uv build --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheels \
    && uv pip install --python /opt/venv/bin/python --no-deps --compile-bytecode --target /opt/marquee /wheels/*.whl \
    && echo /opt/marquee > /opt/venv/lib/python3.11/site-packages/marquee.pth


FROM python:3.11.14-slim-bookworm

# The same user id in both images: they share the state volume.
RUN useradd --create-home --uid 10001 marquee && install -d -o marquee -g marquee /var/lib/marquee

COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/marquee /opt/marquee

ENV PATH=/opt/venv/bin:/opt/marquee/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONWARNINGS=ignore \
    MARQUEE_HOME=/var/lib/marquee \
    BENTOML_HOME=/var/lib/marquee/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    DO_NOT_TRACK=1 \
    FEAST_USAGE=False \
    OTEL_SDK_DISABLED=true \
    OMP_WAIT_POLICY=PASSIVE

USER marquee
WORKDIR /var/lib/marquee
VOLUME /var/lib/marquee
EXPOSE 3000
# `marquee serve` ends its workers on an interrupt; a plain SIGTERM would leave them to be killed in mid-request.
STOPSIGNAL SIGINT

HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/readyz', timeout=3)"]

# 0.0.0.0 is the container's own interface; which address of the host reaches it is decided where the port is published.
CMD ["marquee", "serve", "--host", "0.0.0.0", "--port", "3000"]
