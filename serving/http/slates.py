"""``POST /v1/banners/recommend``: which banners to show here and now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from serving.http.bodies import require_strict
from serving.http.journal import pseudonym
from serving.http.middleware import Answer, Exchange
from serving.http.problems import invalid_body
from serving.schemas import RecommendRequest

if TYPE_CHECKING:  # Feast and XGBoost come with it, and BentoML's parent process needs neither
    from serving.worker import Worker


class Slates:
    """Answers requests for slates for one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, body: bytes, exchange: Exchange) -> Answer:
        """The slate, once its impressions are durable.

        Raises:
            Problem: 400; it names the field.
            TryAgain: the impressions could not be stored, so nothing is shown.
        """
        request = read_request(body)
        if request.visitor_id:
            exchange.told["visitor"] = pseudonym(request.visitor_id)
        answer = await self._worker.answer(request)
        return Answer(200, answer.__pydantic_serializer__.to_json(answer))


def read_request(body: bytes) -> RecommendRequest:
    """The request that a body holds.

    Raises:
        Problem: 400; it names the field.
    """
    try:
        request = RecommendRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from None
    parts = (request, request.context, *request.placements)
    # A context that was not given has no fields of its own.
    require_strict(body, sum(len(part.model_fields_set) for part in parts))
    return request
