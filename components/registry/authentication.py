"""Authentication codes (HMAC-SHA256), whose keys are tags in MLflow: who can write the bucket alone has no key.

Two processes that start at once may each make a key. All keys count, and a code names its own.
"""

import hashlib
import hmac
import json
import secrets

KEY_TAG = "authentication_key."
"""What the tags of keys begin with; a key's name follows."""
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
    """Return the code of a content that JSON can hold: `key` (the key's name) and `hmac` (64 hexadecimal digits)."""
    name = min(keys)
    return {"key": name, "hmac": _hmac(content, keys[name])}


def is_authentic(content: dict, code: object, keys: Keys) -> bool:
    """Return whether `code` is the code of the content by one of the keys. A malformed code is not."""
    if not isinstance(code, dict) or not isinstance(code.get("hmac"), str) or not isinstance(code.get("key"), str):
        return False
    key = keys.get(code["key"])
    return key is not None and hmac.compare_digest(_hmac(content, key).encode(), code["hmac"].encode(errors="replace"))


def _hmac(content: dict, key: bytes) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, canonical.encode(), hashlib.sha256).hexdigest()
