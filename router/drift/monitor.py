"""Watches each policy that has a risk budget: its scores, and what its answers turned out to be worth."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from ..ledger import Entry
from ..settings import DriftSettings
from .loss import LossDrift
from .scores import ScoreDrift, ScoreReference

log = logging.getLogger("smallfirst.drift")

Source = Literal["feedback", "shadow"]
SOURCES: tuple[Source, ...] = ("feedback", "shadow")
SCORES = ("difficulty", "gap", "unknown")

# An agent's requests of one session are alike, and tests of exchangeability would take that for drift. So a session
# counts once in so many seconds; the most recent sessions are remembered, as many as this.
SESSION_SECONDS = 300.0
SESSIONS = 10_000

# The local share is that of about so many of the latest requests.
_RECENT = 1000

# Beyond what any gap (-1 to 1) or chance (0 to 1) can make up for: nothing is answered locally any more.
EVERYTHING = 3.0

_MEANING = {
    "difficulty": "requests are harder or easier than those it was calibrated on",
    "gap": "the cloud's lead over the local models is not what it was in calibration",
    "unknown": "the share of requests unlike everything measured has changed",
    "feedback": "answers lose more quality than its budget allows, by feedback",
    "shadow": "answers lose more quality than its budget allows, by comparison with the baseline",
}


class DriftMonitor:
    """The tests of all policies with a budget. Not thread-safe: it belongs to the gateway's event loop.

    A policy's three score tests share `alpha` among them, and so do its two loss tests.

    Args:
        settings: How strict, and whether to tighten.
        budgets: The mean quality loss that is allowed, by policy; others are not watched.
        local: Names of the local models.
        references: Calibration scores by policy. A policy without them is only watched for changes within its traffic.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        settings: DriftSettings,
        *,
        budgets: Mapping[str, float],
        local: Collection[str],
        references: Mapping[str, ScoreReference] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._budgets = dict(budgets)
        self._local = frozenset(local)
        self._references = dict(references or {})
        self._clock = clock
        self._watches = {name: self._watch(name) for name in budgets}
        self._sessions: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def observe(self, entry: Entry) -> None:
        """Take a request that has ended. Those that were not scored (pinned models, cached answers) do not count."""
        watch = self._watches.get(entry.policy)
        if watch is None or entry.difficulty is None or entry.kind != "request":
            return
        if entry.status == "ok":
            watch.answered(local=entry.route == "local")
        if not self._is_first_of_session(entry):
            return
        watch.score("unknown", float(not entry.known))
        local = [p for model, p in entry.scores.items() if model in self._local]
        baseline = entry.scores.get(entry.baseline_model or "")
        if entry.known:
            watch.score("difficulty", entry.difficulty)
            if local and baseline is not None:
                watch.score("gap", baseline - max(local))

    def outcome(self, policy: str, source: Source, loss: float) -> None:
        """Take what an answer lost against the baseline's, in [-1, 1].

        Feedback comes from all of a policy's requests; a comparison with the baseline from local answers only, and
        counts with the local share of late.
        """
        watch = self._watches.get(policy)
        if watch is not None:
            watch.loss(source, loss)

    def tightened(self, policy: str) -> float:
        """Return by how much more likely to be right a local model must be than the policy's thresholds ask.

        To be taken off the largest gap that is allowed, or put on the least P(success). 0 while no loss alarm was
        raised (or with `tighten` off), `margin` after the first, `EVERYTHING` after the second: all goes to the cloud.
        """
        watch = self._watches.get(policy)
        return 0.0 if watch is None else watch.tightened

    def reset(self, policy: str | None = None) -> None:
        """Forget alarms and evidence, of one policy or of all: after a new calibration, or where a cause was mended.

        Raises:
            KeyError: The policy has no budget.
        """
        for name in self._watches if policy is None else (policy,):
            if name not in self._watches:
                raise KeyError(name)
            self._watches[name] = self._watch(name)

    def report(self) -> dict[str, Any]:
        """Return all alarms and evidence as JSON values."""
        return {
            "alarm": any(watch.alarms for watch in self._watches.values()),
            "policies": {name: watch.report() for name, watch in self._watches.items()},
        }

    def gauges(self) -> dict[str, tuple[str, dict[tuple[tuple[str, str], ...], float]]]:
        """Return metrics: name -> (help, value by labels)."""
        tests = {
            (("policy", name), ("test", test)): (test in watch.alarms, watch.tests[test])
            for name, watch in self._watches.items()
            for test in watch.tests
        }
        if not tests:
            return {}
        return {
            "smallfirst_drift_alarm": (
                "1 where a test says that traffic is not what was calibrated on",
                {labels: float(alarm) for labels, (alarm, _) in tests.items()},
            ),
            "smallfirst_drift_evidence": (
                "The test's evidence, natural logarithm of an e-value",
                {labels: test.evidence for labels, (_, test) in tests.items()},
            ),
            "smallfirst_drift_observations": (
                "What the test has seen since it began",
                {labels: float(test.n) for labels, (_, test) in tests.items()},
            ),
            "smallfirst_drift_tightened": (
                "How much more likely to be right local models must be than the threshold asks",
                {(("policy", name),): watch.tightened for name, watch in self._watches.items()},
            ),
        }

    def _watch(self, name: str) -> _Watch:
        return _Watch(name, self._budgets[name], self._settings, self._references.get(name))

    def _is_first_of_session(self, entry: Entry) -> bool:
        if entry.session is None:
            return True
        key, now = (entry.policy, entry.tenant, entry.session), self._clock()
        before = self._sessions.get(key)
        if before is not None and now - before < SESSION_SECONDS:
            return False
        self._sessions[key] = now
        self._sessions.move_to_end(key)
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
        return True


class _Watch:
    """One policy's tests. An alarm stays until the watch is replaced."""

    def __init__(
        self, name: str, budget: float, settings: DriftSettings, reference: ScoreReference | None
    ) -> None:
        self.alarms: dict[str, int] = {}
        self._name = name
        self._budget = budget
        self._settings = settings
        self._stage = 0
        self._requests = 0
        self._local_share = 0.5
        self._scores = {
            test: ScoreDrift(
                alpha=settings.alpha / len(SCORES),
                reference=getattr(reference, test) if reference is not None else None,
                low=-1.0 if test == "gap" else 0.0,
                seed=seed,
            )
            for seed, test in enumerate(SCORES)
        }
        self._losses = self._loss_tests()

    @property
    def tests(self) -> dict[str, ScoreDrift | LossDrift]:
        """All tests by name."""
        return dict((*self._scores.items(), *self._losses.items()))

    @property
    def tightened(self) -> float:
        return (0.0, self._settings.margin, EVERYTHING)[self._stage]

    def answered(self, *, local: bool) -> None:
        self._requests += 1
        self._local_share += (float(local) - self._local_share) / min(self._requests + 1, _RECENT)

    def score(self, test: str, value: float) -> None:
        drift = self._scores[test]
        drift.add(value)
        self._note(test, drift)

    def loss(self, source: Source, value: float) -> None:
        drift = self._losses[source]
        drift.add(value, share=self._local_share if source == "shadow" else 1.0)
        if not drift.alarm:
            return
        self._note(source, drift)
        if self._settings.tighten and self.tightened < EVERYTHING:
            self._stage += 1
            # What comes now was decided by the tightened rule: the next alarm must be about that.
            self._losses = self._loss_tests()
            what = "all goes to the cloud" if self.tightened >= EVERYTHING else f"by {self.tightened:.2f}"
            log.warning("policy '%s' is tightened: %s", self._name, what)

    def report(self) -> dict[str, Any]:
        return {
            "tightened": self.tightened,
            "tests": {
                name: {"alarm": name in self.alarms, "evidence": round(test.evidence, 3), "n": test.n}
                for name, test in self.tests.items()
            },
        }

    def _note(self, name: str, test: ScoreDrift | LossDrift) -> None:
        if test.alarm and name not in self.alarms:
            self.alarms[name] = test.n
            log.warning(
                "drift alarm of policy '%s' after %d: %s (evidence %.1f)",
                self._name,
                test.n,
                _MEANING[name],
                test.evidence,
            )

    def _loss_tests(self) -> dict[Source, LossDrift]:
        alpha = self._settings.alpha / len(SOURCES)
        return {source: LossDrift(budget=self._budget, alpha=alpha) for source in SOURCES}
