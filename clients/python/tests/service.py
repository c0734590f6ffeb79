"""A service that takes a second for a task.  usage: service.py blocking|asyncio CHANNEL"""
import asyncio
import sys
import time

from pg_saga import AsyncSaga, Saga

face, channel = sys.argv[1:]


def slow(task):
    print(task.step, flush=True)
    time.sleep(1)


async def slow_too(task):
    print(task.step, flush=True)
    await asyncio.sleep(1)


async def main():
    async with AsyncSaga() as saga:
        await saga.serve(channel, slow_too)


if face == "blocking":
    with Saga() as saga:
        saga.serve(channel, slow)
else:
    asyncio.run(main())
print("stopped")
