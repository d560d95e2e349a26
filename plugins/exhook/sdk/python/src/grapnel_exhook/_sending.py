"""Sends the worker's commands and answers in frames that are not longer than the broker takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._channel import Channel, pack
from ._driver import FAILED
from ._loading import last_line


def send_commands(channel: Channel, commands: list[Any]) -> None:
    """Send commands in as few frames as possible. Each fits into a frame."""
    data = pack([4, commands])
    if len(data) <= channel.frame_bytes_max or len(commands) == 1:
        channel.send(data)
        return
    half = len(commands) // 2
    send_commands(channel, commands[:half])
    send_commands(channel, commands[half:])


def send_answers(channel: Channel, answers: list[tuple[int, int, Any]], done: int, complain: Callable[[str], None]) -> None:
    """Send answers, and the number of calls that are done with them. `complain` gets why an answer
    cannot be sent; a failure is sent instead of it."""
    limit = channel.frame_bytes_max
    try:
        data = pack([2, answers, done])
        too_long = len(data) - 4 > limit
    except (TypeError, ValueError, OverflowError) as error:
        if len(answers) == 1:
            text = f"what the hook answered cannot be sent: {last_line(error)}"
            complain(text)
            send_answers(channel, [(answers[0][0], FAILED, text[:1000])], done, complain)
            return
        too_long, data = True, b""
    if not too_long:
        channel.send(data)
    elif len(answers) > 1:
        half = len(answers) // 2
        send_answers(channel, answers[:half], 0, complain)
        send_answers(channel, answers[half:], done, complain)
    else:
        text = f"the answer has {len(data)} bytes, the broker takes {limit} (frame_bytes_max)"
        complain(text)
        channel.send(pack([2, [(answers[0][0], FAILED, text)], done]))
