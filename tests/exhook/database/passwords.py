"""Salted hashes for the users table. Both hooks check with it; `python3 passwords.py` makes one of what it reads."""

import hashlib
import hmac
import os
import sys

_COST = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 32}


def make(password: bytes) -> str:
    """`scrypt$SALT$HASH`, both in hex."""
    salt = os.urandom(16)
    return f"scrypt${salt.hex()}${hashlib.scrypt(password, salt=salt, **_COST).hex()}"


# Nobody's: an unknown user takes as long as a wrong password.
_NOBODY = make(os.urandom(16))


def fits(password: bytes, stored: str | None) -> bool:
    """Whether it is the password that `stored` was made of; None is the hash of an unknown user."""
    kind, salt, expected = (stored or _NOBODY).split("$")
    if kind != "scrypt":
        raise ValueError(f"the users table has a hash of the unknown kind {kind!r}")
    found = hashlib.scrypt(password, salt=bytes.fromhex(salt), **_COST)
    return hmac.compare_digest(found, bytes.fromhex(expected)) and stored is not None


if __name__ == "__main__":
    print(make(sys.stdin.buffer.read()))
