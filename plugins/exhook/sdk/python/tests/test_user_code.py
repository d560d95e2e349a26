"""User code in its worker: forks, logging configuration, exceptions, threads. The worker continues,
or logs why not."""

from __future__ import annotations

import os
import signal

import pytest
from conftest import Start, recorded
from fake_broker import POINTS, FakeBroker, Refused, message

HOOK = "from grapnel_exhook import on\n@on.client_connected\ndef connected(event): pass\n"


@pytest.mark.parametrize("root", [{}, {"root": {"handlers": []}}])
def test_failures_are_logged_whatever_user_code_does_to_logging(start: Start, root: dict) -> None:
    source = f"""
        import logging.config
        from grapnel_exhook import on
        logging.config.dictConfig({{"version": 1, **{root!r}}})
        @on.message_delivered
        def delivered(event):
            1 / 0
    """
    broker = start(source)
    broker.notify("message.delivered", 0, message())
    assert "ZeroDivisionError" in broker.lines()


def test_a_forked_child_does_not_hold_the_socket_open(start: Start) -> None:
    source = """
        import os, time
        from grapnel_exhook import on
        @on.client_connected
        def connected(event):
            child = os.fork()
            if not child:
                time.sleep(600)
                os._exit(0)
            print(repr((child,)))
    """
    broker = start(source)
    broker.notify("client.connected", 0, [])
    ((child,),) = recorded(broker)
    try:
        broker.process.kill()
        with pytest.raises(AssertionError, match="closed its socket"):
            broker.until(lambda: False, wait_s=5)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_forked_child_writes_no_frames_and_runs_no_shutdown(start: Start, kind: str) -> None:
    source = f"""
        import logging, multiprocessing, os
        from grapnel_exhook import on, broker
        def work():
            logging.getLogger("child").warning("hello from it")
            try:
                broker.publish("t")
            except RuntimeError as error:
                print(repr((str(error),)))
        @on.client_connected
        {kind} connected(event):
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            child.join()
        @on.client_authorize
        {kind} authorize(event):
            # One that comes back from the hook, as it should not.
            return None if os.fork() else True
        def close():
            print(repr(("closed",)))
    """
    broker = start(source)
    broker.notify("client.connected", 0, [])
    broker.until_printed("child: hello from it")
    assert broker.request("client.authorize", 0, [1, "t", 0, False, 0]) == (0, None)
    assert broker.stop() == 0
    (told, closed) = recorded(broker)
    assert "a child" in told[0] and closed == ("closed",)
    assert broker.commands == [] and "hello" not in broker.lines()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_setup_that_is_cancelled_refuses_the_load(start: Start, kind: str) -> None:
    source = f"""
        import asyncio
        from grapnel_exhook import on
        @on.client_connected
        def connected(event): pass
        {kind} setup(): raise asyncio.CancelledError("no database")
    """
    with pytest.raises(Refused, match="CancelledError: no database"):
        start(source)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_worker_exits_with_0_whatever_its_shutdown_raises(start: Start, kind: str) -> None:
    source = f"""
        import asyncio
        from grapnel_exhook import on, broker
        @on.client_connected
        def connected(event): pass
        {kind} close():
            broker.publish("bye")
            raise asyncio.CancelledError("no more")
    """
    broker = start(source)
    assert broker.stop() == 0
    assert "CancelledError: no more" in broker.lines() and broker.commands[0][1]["topic"] == "bye"


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_worker_that_has_refused_ends_whatever_threads_it_has(start: Start, tmp_path, kind: str) -> None:
    (tmp_path / "hooks.py").write_text(
        "import threading, time\nfrom grapnel_exhook import on\n@on.client_connected\ndef c(e): pass\n"
        f"{kind} setup():\n    threading.Thread(target=time.sleep, args=(3600,)).start()\n    1 / 0\n"
    )
    with FakeBroker(tmp_path, path=[str(tmp_path)]) as broker:
        with pytest.raises(Refused, match="ZeroDivisionError"):
            broker.start()
        assert broker.process.wait(5) == 1


def test_what_a_hook_raises_after_it_has_waited_ends_its_call(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        class Odd(BaseException): pass
        @on.client_authorize
        async def authorize(event):
            await asyncio.sleep(0)
            raise {"odd": Odd, "exit": GeneratorExit, "key": KeyboardInterrupt, "system": SystemExit}[event.topic]
    """
    broker = start(source)
    for topic in ("odd", "exit", "key", "system"):
        ident = broker.begin("client.authorize", 0, [1, topic, 0, False, 0])
        broker.until(lambda ident=ident: ident in broker.answers, wait_s=5)
        assert broker.answers[ident][0] == 2
    assert broker.done == broker.requested


def test_context_variables_of_a_hook_that_waits_are_its_own(start: Start) -> None:
    source = """
        import asyncio, contextvars
        from grapnel_exhook import on
        who = contextvars.ContextVar("who", default=None)
        common = contextvars.ContextVar("common")
        async def setup(): common.set("ours")
        @on.client_authorize
        async def authorize(event):
            before = who.get()
            who.set(event.topic)
            await asyncio.sleep(0.01)
            print(repr((event.topic, before, who.get(), common.get())))
    """
    broker = start(source)
    broker.calls([[n, POINTS["client.authorize"], 0, [1, f"t{n}", 0, False, 0]] for n in range(1, 5)])
    broker.until(lambda: len(broker.answers) == 4)
    assert sorted(recorded(broker)) == [(f"t{n}", None, f"t{n}", "ours") for n in range(1, 5)]


def test_a_log_level_that_is_none_refuses_the_load(start: Start) -> None:
    with pytest.raises(Refused, match="log_level inof is none of error, warn, info, debug"):
        start(HOOK, config={"log_level": "inof"})
    assert start(HOOK, config={"log_level": "Warning"}).hooks


def test_commands_of_tasks_that_end_with_the_worker_go_out(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import broker, on
        async def runs():
            try:
                await asyncio.sleep(3600)
            finally:
                broker.publish("ended")
        async def setup():
            global task
            task = asyncio.ensure_future(runs())
        @on.client_connected
        async def connected(event): pass
    """
    broker = start(source)
    assert broker.stop() == 0
    assert [command[1]["topic"] for command in broker.commands] == ["ended"]
