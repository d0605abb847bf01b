"""Masking: what is personal goes, what only looks like it stays, and no text takes long."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.serve.gateway.mask import MAX_DEPTH, mask, mask_text

UUID = "123e4567-e89b-12d3-a456-426614174000"
# Put together, so that no file of the repository seems to hold a key.
PRIVATE = "PRIVATE" + " KEY-----"
KEY = f"-----BEGIN RSA {PRIVATE}\nMIIEow+/=\n-----END RSA {PRIVATE}"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc_DEF-123"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ann.lee+x@mail.example.co.uk, or Bob@x.de.", "write to <email>, or <email>."),
        ("jürgen@bücher.example", "<email>"),
        ("https://ann:geheim@host.example/x", "https://ann:<email>/x"),
        ("DE89 3704 0044 0532 0130 00 please", "<iban> please"),
        ("pay GB82WEST12345698765432.", "pay <iban>."),
        ("de89-3704-0044-0532-0130-00", "<iban>"),
        ("XX00 1234 then DE89370400440532013000", "XX00 1234 then <iban>"),
        ("card 4111 1111 1111 1111 123", "card <card> 123"),
        ("order 12 4111-1111-1111-1111", "order 12 <card>"),
        ("5500005555555559, 378282246310005", "<card>, <card>"),
        ("3782 822463 10005", "<card>"),
        ("123-45-6789 and 123 45 6789", "<ssn> and <ssn>"),
        ("from 192.168.1.10 to 2001:db8::ff00:42:8329.", "from <ip> to <ip>."),
        ("fe80::1: it answers; [::1]:80", "<ip>: it answers; [<ip>]:80"),
        ("::ffff:192.0.2.1", "<ip>"),
        ("+49 170 1234567 or +1 (555) 123-4567", "<phone> or <phone>"),
        ("(555) 123-4567, 555-123-4567", "<phone>, <phone>"),
        ("020 7946 0958, 01 23 45 67 89, 0170-1234567", "<phone>, <phone>, <phone>"),
        ("sk-proj-abc123def456ghi789", "<secret>"),
        ("key=rm-Abcd1234efgh5678ijkl;", "key=<secret>;"),
        ("ghp_abcdefghijklmnopqrst12345 AKIAIOSFODNN7EXAMPLE", "<secret> <secret>"),
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer <secret>"),
        (TOKEN, "<secret>"),
        (f"a {KEY} b", "a <secret> b"),
        ("see data:image/png;base64,iVBORw0KGgo= here", "see <data> here"),
        ("A1b2" * 300, "<data>"),
    ],
)
def test_what_is_personal_is_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(text) == masked  # and again the same
    assert mask_text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "plain words, nothing else",
        "de89370400440532013001",  # mod 97 is wrong
        "4111 1111 1111 1112",  # Luhn is wrong
        "4111111111111111" * 3,
        "000-12-345",
        "256.1.1.1 and 1.2.3.4.5",
        "12:30:45, std::vector, a::b, x :: Int",
        "2024-01-02 10:11:12, 01 02 2024",
        "1700000000 1700000000000 1,234,567.89 3.14159265358979",
        "gpt-4o-2024-08-06 v1.2.3",
        UUID,
        "sk-learn-compatible-estimator, farm-house-with-many-animals",
        "bearer authentication",
        "@decorator, a@b, user@localhost",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert mask_text(text) == text


def test_json_is_masked_in_all_its_depths_and_keeps_its_shape() -> None:
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "I am ann@x.com"}]}],
        "temperature": 0.5,
        "stream": True,
        "user": None,
        "card": 4111111111111111,
        "count": 17,
        "arguments": '{"mail":"ann@x.com"}',
    }
    assert mask(body) == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "I am <email>"}]}],
        "temperature": 0.5,
        "stream": True,
        "user": None,
        "card": "<card>",
        "count": 17,
        "arguments": '{"mail":"<email>"}',
    }
    assert body["card"] == 4111111111111111  # what it was given is as it was


def test_keys_are_masked_and_none_is_lost() -> None:
    assert mask({"ann@x.com": 1, "bob@x.com": 2, "n": 3}) == {"<email>": 1, "<email> 2": 2, "n": 3}


def test_what_is_nested_too_deep_is_left_out() -> None:
    deep: object = "ann@x.com"
    for _ in range(MAX_DEPTH + 400):
        deep = [deep]
    assert "ann" not in json.dumps(mask(deep))


HOSTILE = {
    "letters": "a",
    "ats": "@",
    "addresses without an end": "a@",
    "domains": "a@b.",
    "digits": "1",
    "digits apart": "1 ",
    "cards almost": "4111 ",
    "plus": "+1",
    "colons": ":",
    "addresses of machines": "ab:12:",
    "dots": "1.",
    "tokens": "eyJ-",
    "token parts": "eyJaaaaaaaa!",
    "keys": f"-----BEGIN {PRIVATE}",
    "bearers": "bearer ",
    "ibans": "DE89 3704 0044 0532 0130 01 ",
    "blobs": "x" * 1023 + " ",
    "data": "data:a/b;base64,",
    "brackets": "(555) ",
    "other letters": "é",
    "what people write": "mail bob@example.com from 10.0.0.1 or call +49 170 1234567 ",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_megabyte_of_anything_takes_its_time_once(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    mask_text(text)
    assert time.process_time() - start < 5


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="a1@.-+: ()sk=é\n0", max_size=80))
def test_any_text_has_one_result(text: str) -> None:
    assert mask_text(text) == mask_text(text)
