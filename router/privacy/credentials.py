"""Secrets: keys and tokens by what they begin with, private keys, passwords in addresses, what is named a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .kinds import Place, Text

# Each provider's marks, and what follows them. A digit must be among the latter: `sk-learn-something` is a word.
_MARKS = (
    "sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "whsec_",  # OpenAI, Anthropic, Stripe
    "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "glrt-",  # GitHub, GitLab
    "hf_", "npm_", "pypi-", "rubygems_", "dckr_pat_",  # package registries
    "xox", "xapp-",  # Slack
    "GOCSPX-", "ya29.", "gsk_", "xai-", "pplx-", "r8_", "tvly-", "nvapi-", "dapi",  # Google, Groq, xAI and others
    "dop_v1_", "shpat_", "lin_api_", "ntn_", "SG.", "AGE-SECRET-KEY-", "sf-",  # the last is this gateway's own
)  # fmt: skip
_MARKED = re.compile(
    r"(?<!\w)[A-Za-z]{2,8}[-_.](?=[A-Za-z_.-]{0,60}\d)[A-Za-z0-9_.-]{15,400}[A-Za-z0-9_-]"
    r"|(?<!\w)(?:r8_|ya29\.|dop_v1_|dapi)[A-Za-z0-9_.-]{15,400}[A-Za-z0-9_-]"
)
_FORMS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), ("AKIA", "ASIA")),  # AWS
    (re.compile(r"\bAIza[A-Za-z0-9_-]{35}"), ("AIza",)),  # Google
    (re.compile(r"\b(?:AC|SK)[0-9a-f]{32}\b"), ("AC", "SK")),  # Twilio
    (re.compile(r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,80}"), ("hooks.slack.com",)),
    (re.compile(r"(?<=\d):AA[A-Za-z0-9_-]{33}\b"), (":AA",)),  # Telegram, its secret half
    # JSON Web Token
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}"), ("eyJ",)),
)

_PRIVATE_KEY = re.compile(r"-----BEGIN[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
# What a cut-off key goes on with.
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s\\]{0,8000}")
_LONGEST_KEY = 8000

# Group 1 is the secret, of what is named one.
_PASSWORD = re.compile(
    r"""(?i)(?:passw(?:or)?d|passphrase|(?<![a-z])pwd|(?<![a-z])pin)["']?(?:[ ]{0,3}[:=][ ]{0,3}|[ ]is[ ])["']?"""
    r"""([^\s"'`,;]{4,200})"""
)
_PASSWORDS = ("passw", "passphrase", "pwd", "pin")
_NAMED = re.compile(
    r"""(?i)(?:(?<![a-z])Bearer[ ]+
         | (?:api[ _-]?key|secret|token|access[_-]?key|private[_-]?key|account[_-]?key|credential)
           [a-z_]{0,12}["']?[ ]{0,3}[:=][ ]{0,3}["']?
        )([^\s"'`,;@]{6,400})""",
    re.VERBOSE,
)
_NAMES = ("bearer", "api", "secret", "token", "access", "private", "account", "credential")
_IN_ADDRESS = re.compile(r"://[^\s/:@]{0,100}:(?=[^\s/@]{1,200}@)([^\s@]{1,200})@")
# What stands in a secret's place in code and templates: calls, variables, types.
_NO_SECRET = re.compile(
    r"""[$<{%(\[*.&] | (?:os|process|settings|config|self|env|None|null|true|false)\b | .*[({\[]
      | [A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z | [iuf](?:8|16|32|64)\b
      | (?i:str|string|text|required|optional|password|secret|your.*|x{3,})\Z
    """,
    re.VERBOSE,
)
# A token is neither a number or a sum, `token: 4096000`, nor a variable, `tokens=written_1h`.
_NO_TOKEN = re.compile(r"[\d*+/^_.,)\]}-]+\Z|[a-z]+(?:_[a-z]+)*(?:_?\d[a-z]?)?\Z")


def secrets(read: Text) -> Iterator[Place]:
    """Yield keys, tokens and passwords."""
    text = read.plain
    yield from (match.span() for match in read.matches(_MARKED, _MARKS))
    for pattern, marks in _FORMS:
        yield from (match.span() for match in read.matches(pattern, marks))
    if "-----BEGIN" in text:
        yield from _private_keys(text)
    yield from (match.span(1) for match in read.matches_words(_IN_ADDRESS, ("://",)))
    for match in read.matches_words(_PASSWORD, _PASSWORDS):
        if _is_password(match[1], text[match.start(1) - 1]):
            yield _trimmed(text, *match.span(1))
    for match in read.matches_words(_NAMED, _NAMES):
        if _is_token(match[1]):
            yield _trimmed(text, *match.span(1))


def _private_keys(text: str) -> Iterator[Place]:
    for match in _PRIVATE_KEY.finditer(text):
        # Searching for the mark alone is quick, however many beginnings there are.
        mark = text.find("-----END", match.end(), match.end() + _LONGEST_KEY)
        end = _KEY_END.match(text, mark) if mark >= 0 else None
        if end is None:
            end = _KEY_BODY.match(text, match.end())
        yield match.start(), end.end() if end is not None else match.end()


def _is_password(value: str, before: str) -> bool:
    if _NO_SECRET.match(value):
        return False
    return before in "\"'" or bool(re.search(r"[\d\W_]", value.rstrip(".!?)")))


def _is_token(value: str) -> bool:
    return not _NO_SECRET.match(value) and not _NO_TOKEN.match(value) and bool(re.search(r"\d", value))


def _trimmed(text: str, start: int, end: int) -> Place:
    """Leave out what ends the sentence or the brackets around."""
    while end > start + 1 and text[end - 1] in ".!?)]}":
        end -= 1
    return start, end
