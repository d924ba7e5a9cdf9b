"""Page tokens: where a list goes on, good for the list that gave them alone."""

from __future__ import annotations

import base64
import hashlib
import json

from index.errors import InvalidInput, PageTokenInvalid
from index.fields import check_text
from index.filter import Filter
from index.settings import StoreSettings

TOKEN_REST_MAX = 64  # characters of a token that are not the id


def _filter_hash(filter: Filter | None) -> str:
    return hashlib.sha256(repr(filter).encode()).hexdigest()[:16]


def token_after(id: str, filter: Filter | None) -> str:
    source = json.dumps([id, _filter_hash(filter)])
    return base64.urlsafe_b64encode(source.encode()).decode()


def page_after(token: str, filter: Filter | None, limits: StoreSettings) -> str:
    """The id after which a page begins. Raises PageTokenInvalid."""
    if len(token) > _token_characters_max(limits):
        raise PageTokenInvalid
    try:
        id, hashed = json.loads(base64.urlsafe_b64decode(token.encode()))
        check_text(id, "page_token", limits.id_bytes_max)
    except (ValueError, TypeError, InvalidInput, RecursionError) as error:
        raise PageTokenInvalid from error
    if hashed != _filter_hash(filter):
        raise PageTokenInvalid
    return id  # type: ignore[no-any-return]  # a text, it was checked


def _token_characters_max(limits: StoreSettings) -> int:
    """JSON writes a byte of an id as six characters at most, and base64 three as four."""
    return 4 * (6 * limits.id_bytes_max + TOKEN_REST_MAX) // 3
