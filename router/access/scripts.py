"""What Redis runs for `shared`: scripts that are whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

# KEYS: rates, budgets, the lease, then the slots if there is a limit of them. ARGV: now in microseconds or '' for
# Redis's clock, number of rates, of budgets, then per rate: limit, cost; per budget: limit, amount, time to live, seed;
# the lease's time to live; slots: limit, lease, its length. Returns now, how long each limit stands in the way (rates:
# microseconds; others 1) and its value.
_ADMIT: Final = """
local now = tonumber(ARGV[1])
if not now then local t = redis.call('TIME'); now = t[1] * 1000000 + t[2] end
local rates, budgets = tonumber(ARGV[2]), tonumber(ARGV[3])
local at, blocked, waits, values, after = 4, false, {}, {}, {}
for i = 1, rates do
  local limit, cost = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at = at + 2
  local tat = tonumber(redis.call('GET', KEYS[i]) or '0')
  after[i] = math.max(tat, now) + cost * 60000000 / limit
  waits[i] = math.ceil(math.max(0, after[i] - 60000000 - now - 1))
  values[i] = tat
  if waits[i] > 0 then blocked = true end
end
for i = rates + 1, rates + budgets do
  local limit, amount, seed = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 3]
  local value = redis.call('GET', KEYS[i])
  if not value then
    redis.call('SET', KEYS[i], seed, 'EX', ARGV[at + 2])
    value = seed
  end
  at = at + 4
  values[i], waits[i] = tonumber(value), 0
  if amount > 0 and values[i] + amount > limit then waits[i] = 1; blocked = true end
end
local i = rates + budgets + 1
local slots = KEYS[i + 1]
local remembered = ARGV[at]
at = at + 1
if slots then
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
  values[i], waits[i] = redis.call('ZCARD', slots), 0
  if values[i] >= tonumber(ARGV[at]) then waits[i] = 1; blocked = true end
end
if not blocked then
  if not redis.call('SET', KEYS[rates + budgets + 1], 'admitted', 'NX', 'EX', remembered) then
    return redis.error_reply('ERR this request was given up')
  end
  at = 4
  for i = 1, rates do
    redis.call('SET', KEYS[i], string.format('%.3f', after[i]), 'PX', math.ceil((after[i] - now) / 1000) + 1000)
    values[i], at = after[i], at + 2
  end
  for i = rates + 1, rates + budgets do
    values[i] = redis.call('INCRBY', KEYS[i], ARGV[at + 1])
    redis.call('EXPIRE', KEYS[i], ARGV[at + 2])
    at = at + 4
  end
  at = at + 1
  if slots then
    redis.call('ZADD', slots, now + tonumber(ARGV[at + 2]), ARGV[at + 1])
    redis.call('PEXPIRE', slots, math.ceil(tonumber(ARGV[at + 2]) / 1000) + 1000)
  end
end
local answer = {string.format('%.3f', now)}
for i = 1, #values do
  answer[2 * i] = string.format('%.3f', waits[i])
  answer[2 * i + 1] = string.format('%.3f', values[i])
end
return answer
"""

# KEYS: the lease. ARGV: its time to live. Returns 1 where its request was admitted, else 0, and then it never will be.
# Asked again, it says the same.
_GIVE_UP: Final = """
local before = redis.call('GET', KEYS[1])
local after = (before == 'admitted' or before == 'undone') and 'undone' or 'given up'
redis.call('SET', KEYS[1], after, 'EX', ARGV[1])
return after == 'undone' and 1 or 0
"""

# KEYS: the batch, the slots, rates, budgets. ARGV: now or '', time to live of the batch, number of rates, of budgets,
# then per rate: change in microseconds, when it is drained; per budget: change, time to live, seed; then leases to end.
# A batch that was taken before is not taken again: its sender may not have heard of it.
_SETTLE: Final = """
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[2]) then return 0 end
local now = tonumber(ARGV[1])
if not now then local t = redis.call('TIME'); now = t[1] * 1000000 + t[2] end
local rates, budgets = tonumber(ARGV[3]), tonumber(ARGV[4])
local at = 5
for i = 3, rates + 2 do
  local change, drained = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at = at + 2
  local tat = tonumber(redis.call('GET', KEYS[i]) or '0')
  if change >= 0 then
    tat = math.max(tat, now) + change
  else
    tat = tat - math.min(-change, math.max(0, drained - now))
  end
  if tat > now then
    redis.call('SET', KEYS[i], string.format('%.3f', tat), 'PX', math.ceil((tat - now) / 1000) + 1000)
  end
end
for i = rates + 3, rates + budgets + 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('INCRBY', KEYS[i], ARGV[at])
  else
    redis.call('SET', KEYS[i], ARGV[at + 2], 'EX', ARGV[at + 1])
  end
  at = at + 3
end
for i = at, #ARGV do redis.call('ZREM', KEYS[2], ARGV[i]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the hash by which Redis knows it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Make one of its text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    async def run(self, redis: Redis, keys: Sequence[str], args: Sequence[object]) -> Any:
        """Run it by its hash; a Redis that has not seen it yet, or was restarted, is sent the text."""
        try:
            return await redis.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)  # type: ignore[no-untyped-call]
        except NoScriptError:
            return await redis.execute_command("EVAL", self.text, len(keys), *keys, *args)  # type: ignore[no-untyped-call]


ADMIT, SETTLE, GIVE_UP = Script.of(_ADMIT), Script.of(_SETTLE), Script.of(_GIVE_UP)
