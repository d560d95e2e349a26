"""The table of clients: connections that share a number or an identifier."""

from __future__ import annotations

from grapnel_exhook._clients import _PEERS_MAX, _WAITING_MAX, Clients


def about(port: int, **more: object) -> dict:
    return {"client_id": "c", "peer_host": "h", "peer_port": port, **more}


def test_what_is_not_repeated_holds_but_for_the_password() -> None:
    clients = Clients()
    clients.describe(1, about(1, password=b"x", keep_alive_s=5)).thing = "mine"
    known = clients.describe(1, about(1, username="ann"))
    assert known.raw == about(1, keep_alive_s=5, username="ann") and known.thing == "mine"
    assert clients.describe(1, {"client_id": "c"}).raw == known.raw


def test_connections_of_one_number_are_separate() -> None:
    clients = Clients()
    clients.describe(1, about(1, keep_alive_s=5)).thing = "one"
    other = clients.describe(1, about(2))
    assert other.thing is None and "keep_alive_s" not in other.raw
    assert clients.describe(1, about(1)).thing == "one"
    clients.forget(1)
    assert clients.get(1) is None and clients.raw(1) == {}


def test_who_takes_over_is_found_under_the_next_number_without_a_password() -> None:
    clients = Clients()
    first = clients.describe(1, about(2, password=b"x", keep_alive_s=5))
    first.thing = "two"
    seen = first.raw
    clients.describe(1, about(1))
    clients.forget(1)
    assert seen["password"] == b"x", "events that were not handled yet show it still"
    next_number = clients.describe(2, about(2))
    assert next_number.thing == "two" and next_number.raw == about(2, keep_alive_s=5)
    assert clients.describe(3, about(1)).thing is None, "who has gone has gone"


def test_who_takes_over_has_no_password_left_however_it_is_described() -> None:
    clients = Clients()
    clients.describe(1, about(2, password=b"x"))
    clients.describe(1, about(1))
    clients.forget(1)
    assert all("password" not in known.raw for known in clients._waiting.values()) and clients._waiting


def test_the_table_is_bounded() -> None:
    clients = Clients()
    for port in range(3 * _PEERS_MAX):
        clients.describe(1, about(port))
    assert len(clients._peers[1]) == _PEERS_MAX
    for number in range(2, 2 * _WAITING_MAX):
        clients.describe(number, about(1, client_id=f"c{number}"))
        clients.describe(number, about(2, client_id=f"c{number}"))
        clients.forget(number)
    assert len(clients._waiting) == _WAITING_MAX and len(clients._peers) == 1


def test_who_was_in_before_this_process_has_not_been_seen_to_come_in() -> None:
    clients = Clients()
    assert clients.describe(1, about(1, clean_start=True)).came_in
    assert not clients.describe(2, about(2, clean_start=True, earlier=True, keep_alive_s=5)).came_in
    known = clients.describe(2, about(2, superuser=True))
    assert not known.came_in and known.raw["keep_alive_s"] == 5
