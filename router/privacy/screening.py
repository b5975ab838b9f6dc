"""What a policy makes of personal data in a request: where it may go, and in which form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from smallfirst.policies import Policy

from ..errors import InvalidRequest
from ..wire import ChatRequest
from .kinds import WORDS, Kind, Span, apart
from .names import presidio
from .placeholders import Placeholders, replaced
from .structured import Find, find_spans
from .walk import named, sent, texts

if TYPE_CHECKING:
    from ..settings import Settings

Mode = Literal["off", "local-only", "redact-and-restore", "block"]

# Kinds that only their meaning gives away.
BY_MEANING: frozenset[Kind] = frozenset({"name", "address"})
# Characters of a conversation that take 10 milliseconds or so, and ten times that where they are numbers alone.
LONG = 100_000


@dataclass(frozen=True, slots=True)
class Screening:
    """What was found in a request, and what follows from it. Holds no value.

    Attributes:
        mode: The policy's.
        policy: Its name.
        kinds: What was found, of the kinds that count, in a fixed order.
    """

    mode: Mode
    policy: str = ""
    kinds: tuple[Kind, ...] = ()
    _find: Find = field(default=find_spans, repr=False, compare=False)

    @property
    def found(self) -> bool:
        """Whether there is anything that counts."""
        return bool(self.kinds)

    @property
    def keeps_local(self) -> bool:
        """Whether the request must not leave the house."""
        return self.found and self.mode == "local-only"

    @property
    def redacts(self) -> bool:
        """Whether a cloud gets placeholders."""
        return self.found and self.mode == "redact-and-restore"

    @property
    def reason(self) -> str:
        """What a decision says of it: the kinds, never a value."""
        return f"the cloud gets placeholders for {' and '.join(self.kinds)}"

    def outgoing(self, request: ChatRequest) -> tuple[ChatRequest, Placeholders]:
        """Return a request as a cloud may get it, and what stands for what. It is looked through as it is now."""
        body, placeholders = self.replaced(request.body)
        return replace(request, body=body), placeholders

    def replaced(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], Placeholders]:
        """Return any body with placeholders for what counts, and what stands for what."""
        return replaced(body, self._find)


NOTHING_LOOKED_FOR = Screening("off")


class Screener:
    """Looks for personal data where a policy asks for it.

    Args:
        policies: All that may decide.
        find_names: Finds names and addresses in a text; None: no policy asks for them.
    """

    def __init__(self, policies: Sequence[Policy], find_names: Find | None = None) -> None:
        self.needed = any(policy.pii != "off" for policy in policies)
        self._find_names = find_names

    def takes_long(self, request: ChatRequest, policy: Policy) -> bool:
        """Whether looking takes so long that others should not wait for it: for names, and through very long texts."""
        if policy.pii == "off":
            return False
        if self._find_names is not None and BY_MEANING & set(policy.pii_types):
            return True
        return sum(len(message.text) for message in request.fields.messages) > LONG

    def screened(self, request: ChatRequest, policy: Policy) -> ChatRequest:
        """Return the request with what was found in it.

        Raises:
            InvalidRequest: The policy blocks it; names the field and the kind.
        """
        if not self.needed:
            return request
        return replace(request, screening=self.screening(request.body, policy))

    def screening(self, body: Mapping[str, Any], policy: Policy) -> Screening:
        """Look through a body; raises as `screened` does."""
        if policy.pii == "off":
            return NOTHING_LOOKED_FOR
        find = self.finder(policy)
        found: set[Kind] = set()
        known: dict[str, Sequence[Span]] = {}
        for path, text in texts(sent(body)):
            spans = known.get(text)
            if spans is None:
                spans = known[text] = find(text)
            if spans and policy.pii == "block":
                raise _blocked(policy, named(path), spans[0].kind)
            found.update(span.kind for span in spans)
        kinds = tuple(kind for kind in WORDS if kind in found)
        return Screening(policy.pii, policy.name, kinds, _find=_remembering(known, find))

    def finder(self, policy: Policy) -> Find:
        """Return what finds the kinds that count under a policy."""
        kinds = frozenset(policy.pii_types)
        names = self._find_names if kinds & BY_MEANING else None

        def find(text: str) -> Sequence[Span]:
            spans = find_spans(text)
            if names is not None:
                spans = merged(spans, names(text))
            return [span for span in spans if span.kind in kinds]

        return find


def screener_of(settings: Settings) -> Screener:
    """Return what screens by the settings' policies.

    Raises:
        SettingsError: A policy asks for names, and what finds them is not installed.
    """
    policies = [settings.policy_named(name) for name in settings.policy_names]
    names = None
    if any(policy.pii != "off" and BY_MEANING & set(policy.pii_types) for policy in policies):
        names = presidio(settings.privacy.spacy_model, settings.privacy.language)
    return Screener(policies, names)


def merged(first: Sequence[Span], second: Sequence[Span]) -> list[Span]:
    """Return spans of both in order; where they overlap, the first have it."""
    return apart([*first, *second])


def _remembering(known: Mapping[str, Sequence[Span]], find: Find) -> Find:
    """Return a finder that does not look twice through what it knows."""

    def remembered(text: str) -> Sequence[Span]:
        spans = known.get(text)
        return find(text) if spans is None else spans

    return remembered


def _blocked(policy: Policy, field: str, kind: Kind) -> InvalidRequest:
    return InvalidRequest(
        f"'{field}' holds {WORDS[kind]} ({kind}), and the policy '{policy.name}' lets none through.",
        param=field,
        code="pii_blocked",
    )
