"""Counters in Valkey or Redis, for services on many machines: a batch is one script, which runs alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any, Final

from features.patience import REQUEST_SECONDS, Pause
from marquee.settings import Settings
from marquee.valkey import connect
from serving.showings import DAYS_KEPT, LOG, CountersError, Item, Limit, Reservation, Shows, Spent

RESERVE: Final = """
local plan = cjson.decode(ARGV[1])
local visitors, spent, changed, answers = {}, {}, {}, {}

local function seen(key)
  if not visitors[key] then
    local rows = {}
    for _, text in ipairs(redis.call('LRANGE', key, 0, -1)) do
      local is_sound, row = pcall(cjson.decode, text)
      if is_sound then rows[#rows + 1] = {row = row, text = text} end
    end
    visitors[key] = {rows = rows, stored = #rows, is_sound = #rows == redis.call('LLEN', key)}
  end
  return visitors[key]
end

local function shown(key, name)
  local place = key .. '\\n' .. name
  if not spent[place] then
    local count = tonumber(redis.call('HGET', key, name) or 0)
    spent[place] = {key = key, name = name, count = count, before = count}
  end
  return spent[place]
end

local function is_full(limit, moments, at, is_current)
  local most, window, block = limit[1], limit[2], limit[3]
  if #moments < most then return false end
  table.sort(moments)
  if is_current and moments[#moments - most + 1] > at - window then return true end
  if block > 0 then
    for last = most, #moments do
      if moments[last] + block > at and moments[last - most + 1] > moments[last] - window then return true end
    end
  end
  return false
end

local function forbids(limit, rows, column, name, at, session)
  if #rows < limit[1] then return false end
  local by_session = {}
  for _, one in ipairs(rows) do
    if one.row[column] == name then
      local which = limit[4] and one.row[4] or session
      by_session[which] = by_session[which] or {}
      table.insert(by_session[which], one.row[3])
    end
  end
  for which, moments in pairs(by_session) do
    if is_full(limit, moments, at, which == session) then return true end
  end
  return false
end

local function is_capped(request, limits, column, name)
  if #limits > 0 and request.key == '' then return true end
  for _, limit in ipairs(limits) do
    if limit[4] and request.session == '' then return true end
    if forbids(limit, seen(request.key).rows, column, name, request.at, request.session) then return true end
  end
  return false
end

local function is_refused(request, item)
  if item.budget >= 0 and shown(KEYS[1], item.campaign).count >= item.budget then return true end
  if item.allowance >= 0 and shown(KEYS[2], item.place).count >= item.allowance then return true end
  return is_capped(request, item.own, 1, item.banner) or is_capped(request, item.shared, 2, item.campaign)
end

local function add(request, item, count)
  if item.budget >= 0 or item.allowance >= 0 then
    for _, place in ipairs({shown(KEYS[1], item.campaign), shown(KEYS[2], item.place)}) do
      place.count = place.count + count
    end
  end
  if item.text then
    local rows = seen(request.key).rows
    if count > 0 then rows[#rows + 1] = {row = cjson.decode(item.text), text = item.text}
    else rows[#rows] = nil end
  end
end

for number, request in ipairs(plan) do
  local refused, taken = {}, {}
  for position, item in ipairs(request.items) do
    if is_refused(request, item) then refused[#refused + 1] = position - 1
    else
      add(request, item, 1)
      taken[#taken + 1] = item
    end
  end
  if #refused > 0 and not request.in_part then
    for last = #taken, 1, -1 do add(request, taken[last], -1) end
  elseif #taken > 0 then
    changed[request.key] = request
  end
  answers[number] = refused
end

for key, request in pairs(changed) do
  local visitor = visitors[key]
  if visitor then
    local kept, longest, is_whole = {}, 0, visitor.is_sound
    for _, one in ipairs(visitor.rows) do
      if one.row[5] > request.at then
        kept[#kept + 1] = one.text
        longest = math.max(longest, one.row[5] - request.at)
      else
        is_whole = false
      end
    end
    if not is_whole then redis.call('DEL', key) end
    for number = is_whole and visitor.stored + 1 or 1, #kept do redis.call('RPUSH', key, kept[number]) end
    if #kept > 0 then redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(longest / 1000))) end
  end
end
for _, place in pairs(spent) do
  if place.count ~= place.before then
    redis.call('HSET', place.key, place.name, string.format('%.0f', place.count))
  end
end
return answers
"""
"""A batch is checked and counted with nothing in between. Moments are below 2^53, so Lua's numbers hold them."""


class ValkeyCounters:
    """See ``Counters``. A list of showings a visitor, which expires with the last one that matters."""

    PREFIX: Final = "marquee:shown:"
    TOTAL: Final = "marquee:spent"
    DAILY: Final = "marquee:spent:daily"

    def __init__(self, settings: Settings) -> None:
        import redis

        # No second try: a showing must not be counted twice.
        self._client = connect(settings, "online_store = valkey", REQUEST_SECONDS)
        self._errors = redis.RedisError
        self._pause = Pause()
        self._script = self._client.register_script(RESERVE)

    def shows(self, key: str) -> Shows:
        """See ``Counters``."""
        with self._told():
            texts = self._client.lrange(self.PREFIX + key, 0, -1)
        try:
            showings = json.loads(b"[" + b",".join(texts) + b"]")
        except ValueError as error:
            LOG.warning("what a visitor was shown cannot be read: %s", error)
            showings = []
        banner_ids, campaign_ids, at, sessions, _ = zip(*showings, strict=True) if showings else ((),) * 5
        return Shows(banner_ids, campaign_ids, at, sessions)

    def spent(self) -> Spent:
        """See ``Counters``."""
        with self._told(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self.TOTAL)
            pipeline.hgetall(self.DAILY)
            total, daily = pipeline.execute()
            by_day = [(*place.decode().split("\n", 1), int(count)) for place, count in daily.items()]
            self._drop_old_days([day for day, _, _ in by_day], list(daily))
        return Spent(
            {campaign_id.decode(): int(count) for campaign_id, count in total.items()},
            {(campaign_id, day): count for day, campaign_id, count in by_day},
        )

    def reserve(self, batch: Sequence[Reservation]) -> list[frozenset[int]]:
        """See ``Counters``."""
        if not any(item.is_limited for reservation in batch for item in reservation.items):
            return [frozenset()] * len(batch)
        plan = [_request(reservation) for reservation in batch]
        keys = [self.TOTAL, self.DAILY, *{request["key"]: None for request in plan if request["key"]}]
        with self._told():
            answers = self._script(keys=keys, args=[json.dumps(plan, ensure_ascii=False, separators=(",", ":"))])
        return [frozenset(refused) for refused in answers]

    def forget(self, visitor_id: str) -> int:
        """See ``Counters``."""
        with self._told():
            return int(self._client.delete(self.PREFIX + visitor_id))

    def close(self) -> None:
        """See ``Counters``."""
        self._client.close()

    def _drop_old_days(self, days: list[str], places: list[bytes]) -> None:
        if days:
            oldest = (date.fromisoformat(max(days)) - timedelta(days=DAYS_KEPT)).isoformat()
            if old := [place for day, place in zip(days, places, strict=True) if day < oldest]:
                self._client.hdel(self.DAILY, *old)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with self._pause.after(self._errors, OSError):
                yield
        except (self._errors, OSError) as error:
            raise CountersError(f"valkey: {error}") from error


def _request(reservation: Reservation) -> dict[str, Any]:
    """A reservation as the script reads it; positions that nothing limits stay, so that positions agree."""
    key = "" if reservation.key is None else ValkeyCounters.PREFIX + reservation.key
    return {
        "key": key,
        "session": reservation.session,
        "at": reservation.at,
        "in_part": reservation.in_part,
        "items": [_item(reservation, item) for item in reservation.items],
    }


def _item(reservation: Reservation, item: Item) -> dict[str, Any]:
    showing = [item.banner_id, item.campaign_id, reservation.at, reservation.session, reservation.at + item.kept]
    is_kept = bool(item.limits) and reservation.key is not None
    return {
        "banner": item.banner_id,
        "campaign": item.campaign_id,
        "place": f"{item.day}\n{item.campaign_id}",
        "own": [_limit(limit) for limit in item.banner_limits],
        "shared": [_limit(limit) for limit in item.campaign_limits],
        "budget": -1 if item.budget is None else item.budget,
        "allowance": -1 if item.allowance is None else item.allowance,
        "text": json.dumps(showing, ensure_ascii=False, separators=(",", ":")) if is_kept else False,
    }


def _limit(limit: Limit) -> list[int | bool]:
    return [limit.most, limit.window, limit.block, limit.in_session]
