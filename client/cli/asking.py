"""Passwords, asked for without showing them, or read from the standard input."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from raymill.policies.errors import Invalid

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the standard input.")
]


def ask_password(prompt: str) -> str:
    """Raises Invalid: there is no terminal to ask at."""
    if not sys.stdin.isatty():
        raise Invalid("there is no terminal to ask for a password: give it with --password-stdin")
    return getpass.getpass(prompt)


def password_of(from_stdin: bool) -> str:
    """Of an account that has one."""
    return sys.stdin.readline().rstrip("\n") if from_stdin else ask_password("password: ")


def new_password(from_stdin: bool) -> str:
    """Asked for twice. Raises Invalid when the two differ."""
    if from_stdin:
        return password_of(from_stdin)
    password = ask_password("new password: ")
    if ask_password("again: ") != password:
        raise Invalid("the two passwords differ: begin again")
    return password
