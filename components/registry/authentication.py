"""Authentication codes (HMAC-SHA256). Their keys are tags in MLflow, so write access to the bucket is not enough.

Two processes that start together may each create a key. All keys are valid, and each code names its key.
"""

import hashlib
import hmac
import json
import secrets

KEY_TAG = "authentication_key."
"""Prefix of the tags that hold keys; the name of the key follows."""
Keys = dict[str, bytes]


def keys_of(tags: dict[str, str]) -> Keys:
    """Return the keys among the tags of a registered model or an experiment: name to key."""
    return {
        name.removeprefix(KEY_TAG): value.encode()
        for name, value in tags.items()
        if name.startswith(KEY_TAG) and len(value) >= 64
    }


def new_key_tag() -> tuple[str, str]:
    """Return the name and the value of a tag that holds a new key of 256 bits."""
    return f"{KEY_TAG}{secrets.token_hex(4)}", secrets.token_hex(32)


def code(content: dict, keys: Keys) -> dict[str, str]:
    """Return the code of a JSON-compatible content: `key` (name of the key) and `hmac` (64 hexadecimal digits)."""
    name = min(keys)
    return {"key": name, "hmac": _hmac(content, keys[name])}


def is_authentic(content: dict, code: object, keys: Keys) -> bool:
    """Return whether `code` is valid for the content with one of the keys. A malformed code is invalid."""
    if not isinstance(code, dict) or not isinstance(code.get("hmac"), str) or not isinstance(code.get("key"), str):
        return False
    key = keys.get(code["key"])
    return key is not None and hmac.compare_digest(_hmac(content, key).encode(), code["hmac"].encode(errors="replace"))


def _hmac(content: dict, key: bytes) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, canonical.encode(), hashlib.sha256).hexdigest()
