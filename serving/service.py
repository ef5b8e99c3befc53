"""The BentoML service: runs the workers, and the API within them. What is answered is decided in ``scoring``."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Awaitable
from typing import Final

import bentoml
from opentelemetry.instrumentation.utils import suppress_http_instrumentation

from marquee.errors import MarqueeError
from marquee.settings import load_settings
from serving.http.app import application
from serving.http.middleware import ASGI, SLOW_SECONDS, Receive, Scope, Send

API: Final = application()
SETTINGS: Final = load_settings()

# BentoML's tracing costs each request more than half of its time here, even when nobody gets the traces. Entered for
# good: the event loop's tasks inherit it from this import. Kept, as it would end with the object.
WITHOUT_TRACES: Final = suppress_http_instrumentation()
if SETTINGS.traces_url is None:
    WITHOUT_TRACES.__enter__()


@bentoml.service(
    name="marquee",
    workers=SETTINGS.service_workers,
    # Later than our own deadline, which answers with more sense; BentoML keeps a request's memory until then.
    traffic={"timeout": math.ceil(max(SETTINGS.deadline, SLOW_SECONDS)) + 1},
    # The API measures and logs its requests itself; BentoML's doing the same took a quarter of the throughput.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={
        "exporter_type": "otlp",
        "sample_rate": 1.0,
        "otlp": {"protocol": "http", "endpoint": SETTINGS.traces_url},
    }
    if SETTINGS.traces_url
    else {},
)
@bentoml.asgi_app(API, path="/")
class BannerService:
    """Online banner scoring."""

    @bentoml.on_deployment
    @staticmethod
    def check_champion() -> None:
        """End with one line when there is nothing to serve; a worker that fails is started again for ever."""
        from training import registry

        try:
            registry.require_champion(SETTINGS)
        except MarqueeError as error:
            sys.exit(f"error: {error}")

    def __init__(self) -> None:
        from serving.http.journal import write_json_lines
        from serving.http.measures import forget_the_dead
        from serving.worker import Worker

        forget_the_dead()
        self._worker = Worker(SETTINGS)
        self._worker.start()
        API.serve(self._worker)
        if SETTINGS.log_format == "json":
            write_json_lines()
        # What is loaded stays: keep the collector from walking it during requests.
        gc.collect()
        gc.freeze()
        # Requests leave few cycles behind; at the usual thresholds looking for them takes a twentieth of the time.
        gc.set_threshold(50_000, 20, 100)

    def __is_ready__(self) -> bool:
        return self._worker.is_ready

    @bentoml.on_shutdown
    def stop(self) -> None:
        """Requests are answered; leave nothing in memory only."""
        self._worker.stop()
        API.close()


class WholePaths:
    """Has the API answer paths with a line break: BentoML's routes end at one, and its 404 is no problem document."""

    def __init__(self, app: ASGI) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass one request on."""
        return (API if "\n" in scope.get("path", "") else self._app)(scope, receive, send)


BannerService.add_asgi_middleware(WholePaths)  # type: ignore[attr-defined]  # the decorator made it a service
