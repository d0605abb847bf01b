"""The peer procrastinate, run by the Python of `.bench/procrastinate`: one command, its seconds as JSON.

    DSN COMMAND COUNT    setup | enqueue | enqueue_batches | work | worker | latency

`work` is claim and complete alone, by its job manager; `worker` is its whole worker.
"""

import asyncio
import json
import sys
import time

import procrastinate  # type: ignore[import-not-found]
from procrastinate.jobs import Status  # type: ignore[import-not-found]

dsn, command, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn))
BATCH = 100


@app.task(name="note", queue="short")  # type: ignore[untyped-decorator]
async def note(**_: int) -> None:
    return


async def main() -> dict[str, object]:
    async with app.open_async():
        if command == "setup":
            await app.schema_manager.apply_schema_async()
            return {}
        started = time.perf_counter()
        if command == "enqueue":
            for number in range(count):
                await note.defer_async(n=number)
        elif command == "enqueue_batches":
            for first in range(0, count, BATCH):
                await note.batch_defer_async(*({"n": number} for number in range(first, first + BATCH)))
        elif command == "work":
            worker_id = await app.job_manager.register_worker()
            while job := await app.job_manager.fetch_job(queues=None, worker_id=worker_id):
                await app.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
        elif command == "worker":
            await app.run_worker_async(
                wait=False, concurrency=1, install_signal_handlers=False, listen_notify=False
            )
        elif command == "latency":
            worker = asyncio.create_task(app.run_worker_async(concurrency=1, install_signal_handlers=False))
            await asyncio.sleep(1)
            for number in range(count):
                await note.defer_async(n=number)
                await asyncio.sleep(0.02)
            await asyncio.sleep(1)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        return {"seconds": time.perf_counter() - started}


print(json.dumps(asyncio.run(main())))
