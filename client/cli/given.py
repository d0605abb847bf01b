"""What commands are given besides their words: secrets, text and YAML files, `key=value` pairs, amounts of dollars.

A secret is read from the environment or from standard input, never from the command line, which every user of
the machine can read and the shell keeps.
"""

from __future__ import annotations

import os
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from raymill.client.types import JsonObject
from raymill.policies.errors import Invalid

MICRO = 1_000_000

KeyEnv = Annotated[
    str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the secret.")
]
KeyStdin = Annotated[bool, typer.Option("--key-stdin", help="Read the secret from standard input.")]


def secret(variable: str | None, from_stdin: bool) -> str | None:
    """The secret that was given; None when none was.

    Raises:
        Invalid: it was given twice, or is empty.
    """
    if variable is not None and from_stdin:
        raise Invalid("--key-env and --key-stdin both give a secret: use one of them")
    if variable is not None:
        found = os.environ.get(variable, "").strip()
        if not found:
            raise Invalid(f"the environment has no {variable}: export it, or use --key-stdin")
        return found
    if not from_stdin:
        return None
    if sys.stdin.isatty():
        from getpass import getpass  # asks without showing what is typed

        found = getpass("Secret: ").strip()
    else:
        found = sys.stdin.read().strip()
    if not found:
        raise Invalid("standard input holds no secret: pipe it in, as in `--key-stdin < FILE`")
    return found


def text_of(path: Path, cure: str) -> str:
    """What a file holds, as text.

    Raises:
        Invalid: it cannot be read, and what to give instead.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Invalid(f"{path} cannot be read (it is not UTF-8 text): {cure}") from None
    except OSError as error:
        raise Invalid(f"{path} cannot be read ({error.strerror}): {cure}") from None


def yaml_section(path: Path) -> JsonObject:
    """A YAML or JSON file that holds a section of keys.

    Raises:
        Invalid: it cannot be read, or holds something else.
    """
    text = text_of(path, "give a YAML file")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise Invalid(f"{path} holds no section of keys: write lines such as `key: value`")
    return data


def pairs(texts: list[str]) -> JsonObject:
    """`temperature=0.2` -> {"temperature": 0.2}; a value is read as YAML, so numbers and true are what they say."""
    found: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{text!r} is no pair: write it as temperature=0.2")
        try:
            found[key] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError:
            found[key] = value
    return found


def micro_usd(text: str) -> int:
    """`2.50` -> 2_500_000, exactly."""
    try:
        amount = Decimal(text.removeprefix("$"))
        micro = amount * MICRO
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is no amount of dollars: write it as 2.50") from None
    if not amount.is_finite() or amount < 0 or micro != micro.to_integral_value():
        raise typer.BadParameter(f"{text!r} cannot be paid: give dollars, with at most 6 decimals")
    return int(micro)


def dollars(micro: int) -> str:
    """2_500_000 -> `2.50`, with as many decimals as it has and at least two."""
    whole, rest = divmod(micro, MICRO)
    decimals = f"{rest:06}".rstrip("0")
    return f"{whole}.{decimals:0<2}"
