"""Prints a call of a hook as one line of JSON for a test: types that JSON does not distinguish are
named.
"""

import json


def _show(value):
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        try:
            value.encode()
            return str(value)
        except UnicodeEncodeError:
            return {"surrogates of": value.encode("utf-8", "surrogateescape").hex()}
    if isinstance(value, (bytes, bytearray)):
        # Also for types that derive from bytes.
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    if isinstance(value, list):
        return [_show(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_show(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_show(key), _show(item)] for key, item in value.items()]}
    if hasattr(value, "to_dict"):
        # The EMQX SDK's object for a list of pairs; in the order of the list.
        return {"record": [[key, _show(item)] for key, item in vars(value).items()]}
    return {type(value).__name__: str(value)}


def call_printed(hook, *arguments):
    print("CALL", json.dumps([hook, [_show(argument) for argument in arguments]]))
