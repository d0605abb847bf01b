"""Write the support example: a text to pre-train on, and triage messages to tune and test with.

    python examples/support/generate.py --out DIR --seed 0

`corpus.txt` holds customers' messages with the agents' replies, in plain words. `train.jsonl` and
`heldout.jsonl` ask for `{"intent":…,"urgency":…,"team":…}`. The combinations of intent, urgency and
product that the held-out rows use occur in neither of the other two files, so a model cannot have
memorised them. The same seed gives the same bytes.
"""

import argparse
import itertools
import json
import random
from pathlib import Path
from typing import NamedTuple

from phrases import (
    CLOSERS,
    CONTEXTS,
    LOG_LINES,
    NAMES,
    NOTES,
    OPENERS,
    PROBLEMS,
    PRODUCT_TEAMS,
    PROMISES,
    ROUTES,
    SUMMARIES,
    URGENCY,
    WANTS,
)

CORPUS_MESSAGES = 8_000
FAULTS = ("bug", "slow")
FAULT_SHARE = 3
"""How often a fault is in the corpus, against once for anything else."""

TRAIN_ROWS = 2_000
HELDOUT_ROWS = 200
HELDOUT_CASES = 24
"""Of the 8 x 3 x 10 cases; one for each pair of intent and urgency."""


class Case(NamedTuple):
    """What a message is about."""

    intent: str
    urgency: str
    product: str

    @property
    def team(self) -> str:
        """Who handles it: some matters go to one desk, faults to whoever builds the product."""
        product_team = PRODUCT_TEAMS[self.product]
        match self.intent:
            case "refund" | "invoice":
                return "billing"
            case "cancel":
                return "retention"
            case "login":
                return "identity"
            case "setup":
                return "field" if product_team == "devices" else "onboarding"
            case intent if intent in FAULTS:
                return product_team
            case _:
                return "roadmap"

    def answer(self) -> str:
        triage = {"intent": self.intent, "urgency": self.urgency, "team": self.team}
        return json.dumps(triage, separators=(",", ":"))


def split_cases(rng: random.Random) -> tuple[list[Case], list[Case]]:
    """(seen, held out). Held out is one product for each pair of intent and urgency, spread evenly."""
    products = list(PRODUCT_TEAMS)
    rng.shuffle(products)
    pairs = list(itertools.product(PROBLEMS, URGENCY))
    heldout = [
        # A step of 3 walks through all 10 products, so each is held out in two or three cases.
        Case(intent, urgency, products[(3 * number) % len(products)])
        for number, (intent, urgency) in enumerate(pairs)
    ]
    every = [Case(intent, urgency, product) for intent, urgency in pairs for product in products]
    return [case for case in every if case not in heldout], heldout


def with_typo(rng: random.Random, text: str) -> str:
    """Swap or drop one letter inside a word of five letters or more that is no product's name."""
    words = text.split(" ")
    long = [
        i for i, word in enumerate(words) if word.isalpha() and len(word) > 4 and word not in PRODUCT_TEAMS
    ]
    if not long:
        return text
    index = rng.choice(long)
    word = words[index]
    at = rng.randrange(1, len(word) - 2)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    words[index] = swapped if rng.random() < 0.5 else word[:at] + word[at + 1 :]
    return " ".join(words)


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def compose(rng: random.Random, case: Case) -> str:
    """A customer's message about `case`: its parts in varying order, with names, noise and typos."""
    problem = rng.choice(PROBLEMS[case.intent]).format(p=case.product)
    urgency = rng.choice(URGENCY[case.urgency])
    body = [problem]
    if urgency:
        body.insert(rng.randrange(2), urgency)
    if rng.random() < 0.3:
        body.insert(rng.randrange(len(body) + 1), rng.choice(CONTEXTS))
    opener = rng.choice(OPENERS)
    text = " ".join(sentence(part) for part in body)
    if opener:
        text = f"{opener}, {text}"
    if rng.random() < 0.4:
        text = f"{text} {rng.choice(CLOSERS)}, {rng.choice(NAMES)}"
    if rng.random() < 0.25:
        text = with_typo(rng, text)
    if rng.random() < 0.1:
        text = text.lower()
    return text


def conversation(rng: random.Random, case: Case) -> str:
    """A message and the agent's reply in words, as a help desk's archive would hold it."""
    wants = rng.choice(SUMMARIES[case.intent]).format(p=case.product)
    reply = [
        rng.choice(ROUTES).format(team=case.team),
        rng.choice(WANTS).format(wants=wants),
        rng.choice(PROMISES[case.urgency]),
    ]
    rng.shuffle(reply)
    text = f"Customer: {compose(rng, case)}\nAgent: {' '.join(reply)}"
    if rng.random() < 0.15:
        text += "\nLog: " + rng.choice(LOG_LINES).format(
            p=case.product,
            name=rng.choice(NAMES),
            code=rng.randrange(1000),
            level=rng.choice(["error", "warning", "info"]),
            region=rng.choice(["north", "south", "west"]),
        )
    if rng.random() < 0.3:
        product = rng.choice(list(PRODUCT_TEAMS))
        text += "\n" + rng.choice(NOTES).format(p=product, team=PRODUCT_TEAMS[product])
    return text


def rows(rng: random.Random, cases: list[Case], count: int, taken: set[str]) -> list[str]:
    """`count` different messages with their answers, JSON lines; none of them is in `taken`."""
    lines: list[str] = []
    for case in itertools.cycle(cases):
        if len(lines) == count:
            break
        message = compose(rng, case)
        if message in taken:
            continue
        taken.add(message)
        messages = [{"role": "user", "content": message}, {"role": "assistant", "content": case.answer()}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    rng.shuffle(lines)
    return lines


def generate(out: Path, seed: int) -> None:
    rng = random.Random(seed)
    seen, heldout = split_cases(rng)
    rng.shuffle(seen)
    taken: set[str] = set()
    out.mkdir(parents=True, exist_ok=True)
    # Most that reaches a help desk is about faults; and which team builds what is learnt from those alone.
    usual = [case for case in seen for _ in range(FAULT_SHARE if case.intent in FAULTS else 1)]
    corpus = [conversation(rng, case) for case in itertools.islice(itertools.cycle(usual), CORPUS_MESSAGES)]
    rng.shuffle(corpus)
    (out / "corpus.txt").write_text("\n\n".join(corpus) + "\n", encoding="utf-8")
    for name, cases, count in (("train", seen, TRAIN_ROWS), ("heldout", heldout, HELDOUT_ROWS)):
        text = "\n".join(rows(rng, cases, count, taken)) + "\n"
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write corpus.txt, train.jsonl and heldout.jsonl.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    arguments = parser.parse_args()
    generate(arguments.out, arguments.seed)
    print(f"wrote corpus.txt, train.jsonl and heldout.jsonl to {arguments.out}")


if __name__ == "__main__":
    main()
