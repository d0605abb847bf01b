"""`python -m benchmarks.artifacts`: an artifact to a local S3 and back, beside bare s3fs; writes `results/artifacts.json`.

The server is moto's, in a process of its own on loopback. It is Python on the same cores and most of what is waited for,
so the rates say what a store adds to s3fs, and nothing of S3. One file of random bytes; by turns, the median of the rounds.
Rates are MiB/s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import report
from benchmarks.goals import Results
from benchmarks.measure import say

from raymill.registry.artifact_cache import Cache
from raymill.registry.artifacts import Published
from raymill.registry.object_files import ObjectFiles
from raymill.registry.object_store import ObjectStore

MIB = 1 << 20
BUCKET = "raymill-bench"


@contextmanager
def s3_server(port: int = 5555) -> Iterator[str]:
    """The URL of a bucket."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        from s3fs import S3FileSystem

        S3FileSystem(use_listings_cache=False).mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        server.terminate()
        server.wait()


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def one_round(url: str, folder: Path, content: Path, number: int) -> dict[str, float]:
    """Seconds of each way."""
    from s3fs import S3FileSystem

    fs = S3FileSystem(use_listings_cache=False)
    bare, back = f"{BUCKET}/bare", folder / "back.bin"
    seconds = {"s3fs_put": timed(lambda: fs.put_file(str(content), bare))}
    seconds["s3fs_get"] = timed(lambda: fs.get_file(bare, str(back)))
    fs.rm_file(bare)
    back.unlink()

    draft = folder / "draft"
    draft.mkdir()
    os.link(content, draft / "model.safetensors")
    objects = ObjectFiles(url)
    made: list[Published] = []
    limit = 4 * content.stat().st_size
    name = f"model/bench/{number:012x}"
    publisher, reader = (ObjectStore(objects, Cache(folder / each, limit)) for each in ("a", "b"))
    seconds["publish"] = timed(lambda: made.append(publisher.publish(name, draft)))

    def hold() -> None:
        with reader.hold(name, made[0].digest):
            pass

    seconds["fetch"] = timed(hold)
    seconds["hold_again"] = timed(hold)
    seconds["verify"] = timed(lambda: reader.verify(name, made[0].files))
    for tree in objects.trees():
        objects.delete(tree)
    for each in ("a", "b"):
        shutil.rmtree(folder / each)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.artifacts")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    size_bytes = arguments.mib * MIB
    results: Results = {"taken_at": report.now(), "machine": report.machine(), "size_bytes": size_bytes}
    with tempfile.TemporaryDirectory() as place, s3_server() as url:
        folder = Path(place)
        content = folder / "content.bin"
        with content.open("wb") as file:
            for _ in range(arguments.mib):
                file.write(os.urandom(MIB))
        rounds = []
        for number in range(arguments.rounds):
            rounds.append(one_round(url, folder, content, number))
            say(
                f"round {number + 1}: {json.dumps({key: round(value, 3) for key, value in rounds[-1].items()})}"
            )
    median = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    results["rounds_s"] = rounds
    results["mib_per_s"] = {
        key: round(arguments.mib / value, 1) for key, value in median.items() if key != "hold_again"
    }
    results["hold_again_ms"] = round(median["hold_again"] * 1000, 2)
    print(json.dumps(results["mib_per_s"] | {"hold_again_ms": results["hold_again_ms"]}, indent=2))
    print(report.write(results, "artifacts.json", whole=arguments.mib >= 1024 and arguments.rounds >= 3))


if __name__ == "__main__":
    main()
