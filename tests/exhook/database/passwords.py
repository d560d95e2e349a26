"""Salted hashes for the users table. Both hook files use it; `python3 passwords.py` makes a hash
of its input.
"""

import hashlib
import hmac
import os
import sys

_COST = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 32}


def make(password: bytes) -> str:
    """`scrypt$SALT$HASH`, both in hex."""
    salt = os.urandom(16)
    return f"scrypt${salt.hex()}${hashlib.scrypt(password, salt=salt, **_COST).hex()}"


# A hash of no user: an unknown user takes as long as a wrong password.
_NOBODY = make(os.urandom(16))


def fits(password: bytes, stored: str | None) -> bool:
    """Whether `stored` is the hash of this password; None means an unknown user."""
    kind, salt, expected = (stored or _NOBODY).split("$")
    if kind != "scrypt":
        raise ValueError(f"the users table has a hash of the unknown kind {kind!r}")
    found = hashlib.scrypt(password, salt=bytes.fromhex(salt), **_COST)
    return hmac.compare_digest(found, bytes.fromhex(expected)) and stored is not None


if __name__ == "__main__":
    print(make(sys.stdin.buffer.read()))
