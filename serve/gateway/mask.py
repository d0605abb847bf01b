"""Takes personal data and secrets out of prompts and answers before they are kept as traces. Pure.

    <email> <phone> <iban> <card> <ssn> <ip> <secret>, and <data> for blobs such as images

The same text always gives the same result. What has a checksum is only masked when it is right: IBANs
(mod 97) and card numbers (Luhn). Names and addresses of streets are not found: this lowers a risk, it does
not end it.

Every expression takes time in proportion to the text: repetitions are possessive or short, and one that may
be long starts only where no character of its own kind stands before it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
"""What is nested deeper is left out as <data>."""

WORTH_A_LOOK = re.compile(r"[0-9@]|-----BEGIN")
SHORTEST_BLOB = 1024

BLOB = re.compile(
    r"(?:data:[\w.+-]{1,40}/[\w.+-]{1,80};base64,)?(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]{1024,}+"
    r"|data:[\w.+-]{1,40}/[\w.+-]{1,80};base64,[A-Za-z0-9+/=_-]*+"
)
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY-----[^-]*+"
    r"(?:-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY-----)?"
)
TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|pk|rk|rm|glpat)-[A-Za-z0-9_-]{16,}+"
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}+"
    r"|gh[opsur]_[A-Za-z0-9]{20,}+"
    r"|github_pat_[A-Za-z0-9_]{20,}+"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}+"
    r"|hf_[A-Za-z0-9]{20,}+"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|(?<![_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*+"
    r")"
)
BEARER = re.compile(r"\b(bearer[ \t]{1,4})([A-Za-z0-9._~+/=-]{12,}+)", re.IGNORECASE)
EMAIL = re.compile(r"(?<![\w.%+&=~-])[\w.%+&=~-]++@[\w-]++(?:\.[\w-]++)++")
IBAN_START = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?=[ -]?[0-9A-Za-z])")
DIGIT_RUN = re.compile(r"(?<![0-9A-Za-z])[0-9](?:[ -]?[0-9]){12,}+")
DIGITS = re.compile(r"[0-9]+")
SSN = re.compile(r"(?<![\w-])(?!000|666|9)[0-9]{3}([ -])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![\w-])")
IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,45}+(?:\.[0-9]{1,3}){0,3}(?!\w)")
IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
PHONE = re.compile(
    r"(?<![\w+])\+[1-9](?:[ ().\-/]{0,3}[0-9]){6,14}(?![0-9])"  # +49 (0) 170 1234567
    r"|(?<![\w.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[0-9]{3}[ .-][0-9]{4}(?![\w-])"  # (555) 123-4567
    r"|(?<![\w.,/:-])0[0-9]{1,4}[ /-][0-9]{2,8}(?:[ -][0-9]{2,8}){0,4}(?![\w-])"  # 020 7946 0958
    r"|(?<![\w.,/:-])0[1-9][0-9]{8,10}(?![\w-]|[.,][0-9])"  # 01701234567
)
CARD = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}"  # American Express, Diners Club
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # Discover, JCB
    r"|62[0-9]{14,17}|(?:50|5[6-9]|6[0-9])[0-9]{11,17}"  # UnionPay, Maestro
)
IBAN_LENGTH = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 "
        "EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 "
        "JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 "
        "NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 "
        "TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
}


def mask(value: Any) -> Any:
    """A JSON value without personal data, in its texts, in numbers that are card numbers, and in its keys."""
    return _mask(value, MAX_DEPTH)


def mask_text(text: str) -> str:
    if len(text) < SHORTEST_BLOB and not WORTH_A_LOOK.search(text):
        return text
    for step in STEPS:
        text = step(text)
    return text


def _mask(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return "<card>" if _is_card(str(value)) else value
    if not isinstance(value, dict | list | tuple):
        return value
    if depth == 0:
        return "<data>"
    if isinstance(value, dict):
        return _mask_object(value, depth)
    return [_mask(each, depth - 1) for each in value]


def _mask_object(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    masked: dict[str, Any] = {}
    for key, each in value.items():
        name = mask_text(str(key))
        if name in masked:  # two addresses may both have become <email>
            name = f"{name} {len(masked) + 1}"
        masked[name] = _mask(each, depth - 1)
    return masked


def _tokens(text: str) -> str:
    # A word of letters alone, such as sk-learn-compatible-estimator, is no secret.
    return TOKEN.sub(lambda found: "<secret>" if DIGITS.search(found[0]) else found[0], text)


def _bearers(text: str) -> str:
    return BEARER.sub(lambda found: f"{found[1]}<secret>" if DIGITS.search(found[2]) else found[0], text)


def _ibans(text: str) -> str:
    pieces: list[str] = []
    told = 0
    for found in IBAN_START.finditer(text):
        end = _iban_end(text, found.start()) if found.start() >= told else None
        if end is not None:
            pieces += [text[told : found.start()], "<iban>"]
            told = end
    return "".join([*pieces, text[told:]])


def _iban_end(text: str, start: int) -> int | None:
    """Where the IBAN that begins at `start` ends; None when there is none."""
    length = IBAN_LENGTH.get(text[start : start + 2].upper(), 0)
    code = ""
    here = start
    while len(code) < length and here < len(text):
        if text[here].isascii() and text[here].isalnum():
            code += text[here].upper()
        elif text[here] not in " -" or text[here - 1] in " -":
            return None
        here += 1
    if len(code) != length or not length or text[here : here + 1].isalnum():
        return None
    number = "".join(str(int(character, 36)) for character in code[4:] + code[:4])
    return here if int(number) % 97 == 1 else None


def _cards(text: str) -> str:
    return DIGIT_RUN.sub(lambda found: _cards_in(found[0]), text)


def _cards_in(run: str) -> str:
    """`run` is digits with single separators; a card number is one to five whole groups of it."""
    groups = [(found.start(), found.end()) for found in DIGITS.finditer(run)]
    pieces: list[str] = []
    told = 0
    for first, (start, first_end) in enumerate(groups):
        if start < told or first_end - start < 4:
            continue
        number = ""
        for begin, end in groups[first : first + 5]:
            number += run[begin:end]
            if _is_card(number):
                pieces += [run[told:start], "<card>"]
                told = end
                break
    return "".join([*pieces, run[told:]])


def _is_card(number: str) -> bool:
    if not 13 <= len(number) <= 19 or not CARD.fullmatch(number):
        return False
    doubled = [digit * 2 for digit in map(int, number[-2::-2])]
    return (sum(map(int, number[-1::-2])) + sum(digit - 9 * (digit > 9) for digit in doubled)) % 10 == 0


def _ipv6(text: str) -> str:
    return IPV6.sub(_masked_ipv6, text)


def _masked_ipv6(found: re.Match[str]) -> str:
    whole = found[0]
    # `fe80::1:` at the end of a clause; `a::b` is a name in a program.
    address = whole[:-1] if whole.endswith(":") and not whole.endswith("::") else whole
    if address.count(":") < 2 or not DIGITS.search(address):
        return whole
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return whole
    return "<ip>" + whole[len(address) :]


def _ipv4(text: str) -> str:
    return IPV4.sub(
        lambda found: "<ip>" if all(int(part) < 256 for part in found[0].split(".")) else found[0], text
    )


def _phones(text: str) -> str:
    def masked(found: re.Match[str]) -> str:
        digits = sum(map(len, DIGITS.findall(found[0])))
        # Of national numbers the shorter ones are more often dates and sums.
        return "<phone>" if (7 if found[0][0] == "+" else 9) <= digits <= 15 else found[0]

    return PHONE.sub(masked, text)


STEPS: tuple[Callable[[str], str], ...] = (
    lambda text: PRIVATE_KEY.sub("<secret>", text),
    lambda text: BLOB.sub("<data>", text),
    _tokens,
    _bearers,
    lambda text: EMAIL.sub("<email>", text),
    _ibans,
    _cards,
    lambda text: SSN.sub("<ssn>", text),
    _ipv6,
    _ipv4,
    _phones,
)
"""In this order: what is longer and surer first."""
