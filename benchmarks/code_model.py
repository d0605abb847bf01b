"""A model that answers the steps of code analysis from a fixed table, after a fixed time: `python -m benchmarks.code_model MS`.

It repairs line by line what the table knows and leaves the rest as it is. What comes of that is a floor, not what a model
can do. Prints its port; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

TABLE: tuple[tuple[str, str], ...] = (
    (r"\bos\.system\((.+)\)\s*;?\s*$", r"subprocess.run(shlex.split(\1), check=True)"),
    (r"\bos\.popen\((.+?)\)", r"subprocess.run(shlex.split(\1), capture_output=True, check=True)"),
    (r"\bshell\s*=\s*True\b", "shell=False"),
    (r"(?<![\w.])eval\s*\(", "ast.literal_eval("),
    (r"\bhashlib\.(md5|sha1)\s*\(", "hashlib.sha256("),
    (r"\bc?[pP]ickle\.(loads?)\s*\(", r"json.\1("),
    (r"\byaml\.load\s*\(", "yaml.safe_load("),
    (
        r"(?<![\w.])random\.(random|randint|randrange|choice|sample|shuffle|uniform)\b",
        r"secrets.SystemRandom().\1",
    ),
    (r"(?<![\w.>])(std::)?rand\s*\(\s*\)", "arc4random()"),
    (r"(?<![\w.>])strcpy\s*\((\s*\w+)\s*,", r"strlcpy(\1, sizeof(\1),"),
    (r"(?<![\w.>])gets\s*\((\w+)\)", r"fgets(\1, sizeof(\1), stdin)"),
    (r"(?<![\w.>])sprintf\s*\(\s*(\w+)\s*,", r"snprintf(\1, sizeof(\1),"),
    (r"\bmalloc\s*\(\s*([\w>.-]+)\s*\*\s*(sizeof\s*\([^()]*\))\s*\)", r"calloc(\1, \2)"),
    (r"\bEVP_(md5|sha1)\s*\(", "EVP_sha256("),
)
COMPILED = tuple((re.compile(pattern), put) for pattern, put in TABLE)
FILES = re.compile(r"^## files\n(\{.*\})$", re.MULTILINE)
LETTERS_A_TOKEN = 4


def repaired(text: str) -> str:
    lines = text.split("\n")
    for pattern, put in COMPILED:
        lines = [pattern.sub(put, line) for line in lines]
    return "\n".join(lines)


def answer(asked: str) -> dict[str, Any]:
    """What the step that asks `asked` is told."""
    if "Write every file anew" in asked:
        found = FILES.search(asked)
        files = json.loads(found[1])["files"] if found else []
        return {"files": [{"name": file["name"], "text": repaired(file["text"])} for file in files]}
    if "Compare the original" in asked:
        return {"changes": [], "findings": [], "confidence": 50}
    return {"summary": "By a fixed table.", "findings": []}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = re.search(r"content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            await asyncio.sleep(delay_s)
            said = completion(json.loads(body)["messages"])
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(said), said)
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def completion(messages: list[dict[str, str]]) -> bytes:
    """A chat completion; tokens are counted as a quarter of the letters."""
    asked = messages[-1]["content"]
    content = json.dumps(answer(asked))
    prompt_tokens = sum(len(message["content"]) for message in messages) // LETTERS_A_TOKEN
    completion_tokens = len(content) // LETTERS_A_TOKEN
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


async def main(delay_s: float) -> None:
    """Serve until standard input ends."""
    server = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, delay_s), "127.0.0.1", 0, limit=1 << 24
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) / 1000))
