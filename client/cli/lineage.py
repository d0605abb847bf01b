"""The chain behind a version, as a tree with the digests in it."""

from __future__ import annotations

from raymill.client.cli.output import Tree, when
from raymill.client.types import Artifact, Dataset, Lineage, Promotion, Quantization
from raymill.registry.sizes import size

SHOWN_DIGITS = 16
"""Of a digest; `--json` has all 64."""


def lineage_tree(chain: Lineage) -> Tree:
    """Data, base, run, scores, files, decisions and signatures."""
    version = chain.version
    aliases = f" [{', '.join(version.aliases)}]" if version.aliases else ""
    root = Tree(f"{version.llm} version {version.number}{aliases}")
    _dataset(root, chain.dataset)
    _artifact(root, "base", chain.base)
    model = _artifact(root, "model", chain.model)
    model.add(f"made by job {version.job_id}")
    numbers = {
        k: v for k, v in chain.training.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    if numbers:
        model.add("training: " + ", ".join(f"{name} {value:.6g}" for name, value in numbers.items()))
    if chain.evaluations:
        scores = root.add("scores")
        for one in chain.evaluations:
            what = " ".join(filter(None, [one.artifact_name, one.variant]))
            scores.add(f"{one.task} {one.score:.4g} on {one.samples} samples ({what})")
    _quantizations(root, chain.quantizations, chain.quantized)
    _decisions(root, chain.promotions)
    if chain.attestations:
        signatures = root.add("signatures")
        for signed in chain.attestations:
            signatures.add(f"{signed.get('artifact_name')} signed with key {signed.get('key_id')}")
    if chain.alias_moves:
        moves = root.add("aliases")
        for move in chain.alias_moves:
            before = f", before that {move.previous_version}" if move.previous_version else ""
            moves.add(f"{when(move.moved_at)} {move.alias} -> {move.version}{before} (by {move.actor})")
    return root


def short(digest: str) -> str:
    return f"sha256:{digest[:SHOWN_DIGITS]}"


def _dataset(root: Tree, data: Dataset) -> None:
    node = root.add(f"dataset {data.name} number {data.number}  {short(data.digest)}")
    node.add(f"{data.train_rows:,} training rows, {data.test_rows:,} held out, {data.artifact_name}")


def _artifact(root: Tree, what: str, artifact: Artifact) -> Tree:
    node = root.add(f"{what} {artifact.name}  {short(artifact.digest)}  {size(artifact.size_bytes)}")
    for file in artifact.files:
        node.add(f"{file.path}  {short(file.sha256)}  {size(file.size_bytes)}")
    return node


def _quantizations(root: Tree, quantizations: list[Quantization], artifacts: list[Artifact]) -> None:
    digests = {artifact.name: artifact.digest for artifact in artifacts}
    for name in dict.fromkeys(one.artifact_name for one in quantizations):
        known = f"  {short(digests[name])}" if name in digests else ""
        node = root.add(f"quantized {name}{known}")
        for one in quantizations:
            if one.artifact_name == name:
                _quantized_file(node, one)


def _quantized_file(node: Tree, one: Quantization) -> None:
    file = node.add(f"{one.type} {one.file}  {short(one.sha256)}  {size(one.size_bytes)}")
    file.add("tensors: " + ", ".join(f"{count} {kind}" for kind, count in one.tensors.items()))
    if "agreement" in one.parity:
        prompts = one.parity.get("prompts", "?")
        file.add(f"parity: {one.parity['agreement']:.0%} of {prompts} answers the same as the model's")
    if "kl_mean" in one.parity:
        file.add(
            "against F16: perplexity {perplexity:.4g} ({perplexity_f16:.4g}), KL divergence {kl_mean:.2g}, 99 % below "
            "{kl_p99:.2g}, {same_top:.1%} the same likeliest token".format(**one.parity)
        )
    for task, score in one.scores.items():
        file.add(f"{task} {score:.4g}")


def _decisions(root: Tree, promotions: list[Promotion]) -> None:
    if not promotions:
        return
    node = root.add("decisions")
    for one in promotions:
        verdict = "allowed" if one.allowed else "refused"
        decision = node.add(f"{when(one.created_at)} {one.alias}: {verdict} (asked by {one.requested_by})")
        decision.add(f"policy {short(one.bundle_digest)}, input {short(one.input_digest)}")
        for text in one.reasons:
            decision.add(text)
