"""What this machine's CPU can do, beyond counting cores. Imports torch when asked."""

from __future__ import annotations


def computes_bf16() -> bool:
    """Whether it multiplies bf16 matrices in hardware. Where it does not, bf16 is emulated and several times slower
    than fp32."""
    import torch

    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
