"""Page tokens: where a list goes on, good for the list that gave them alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from index.errors import PageTokenInvalid
from index.filter import Filter


def _filter_hash(filter: Filter | None) -> str:
    return hashlib.sha256(repr(filter).encode()).hexdigest()[:16]


def token_after(id: str, filter: Filter | None) -> str:
    source = json.dumps([id, _filter_hash(filter)])
    return base64.urlsafe_b64encode(source.encode()).decode()


def page_after(token: str, filter: Filter | None) -> str:
    """The id after which a page begins. Raises PageTokenInvalid."""
    try:
        id, hashed = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError, binascii.Error) as error:
        raise PageTokenInvalid from error
    if not isinstance(id, str) or hashed != _filter_hash(filter):
        raise PageTokenInvalid
    return id
