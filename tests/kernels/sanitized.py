"""A few calls of every CUDA kernel, short enough for compute-sanitizer: scripts/gpu_check.sh.

compute-sanitizer --tool memcheck python -m tests.kernels.sanitized
"""

from __future__ import annotations

import torch

from univa_kernels import emotion_correlation_prior, univa_loss, va_supcon_loss


def contrastive(n: int, m: int, d: int, dtype: torch.dtype, normalize: bool) -> None:
    """Forward and backward by tiles."""
    rows = torch.randn(n, d, device="cuda").to(dtype).requires_grad_()
    options: dict[str, torch.Tensor] = {}
    if m:
        options["contrast_embeddings"] = torch.randn(m, d, device="cuda").to(dtype).requires_grad_()
        options["contrast_coordinates"] = torch.rand(m, 2, device="cuda")
    va = torch.rand(n, 2, device="cuda")
    va_supcon_loss(rows, va, radius=0.3, normalize=normalize, **options).backward()


def objective(batch: int, labels: int, dtype: torch.dtype, normalize: bool) -> None:
    """Forward and backward of the whole loss, in one launch each way up to 64 labels."""

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda").to(dtype).requires_grad_()

    names = ("text", "audio", "vision")
    univa_loss(
        tensor(batch, labels),
        torch.ones(batch, labels, dtype=torch.bool, device="cuda"),
        {name: tensor(batch, 50 + i) for i, name in enumerate(names)},
        {name: torch.rand(batch, 2, device="cuda") for name in names},
        tensor(labels, labels),
        temperature=torch.tensor(
            0.5, device="cuda", dtype=torch.promote_types(dtype, torch.float32)
        ).requires_grad_(),
        prior="norm",
        radius=0.3,
        normalize=normalize,
    ).total.backward()


def main() -> None:
    """Run every case once."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for allowed in (False, True) if dtype == torch.float32 else (False,):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            contrastive(129, 0, 33, dtype, False)
            contrastive(70, 150, 40, dtype, False)
        contrastive(40, 0, 24, dtype, True)
        for labels in (6, 66):
            objective(33, labels, dtype, False)
            objective(33, labels, dtype, True)
        predictions = torch.randn(33, 6, device="cuda").to(dtype).requires_grad_()
        similarity = torch.randn(6, 6, device="cuda").to(dtype).requires_grad_()
        emotion_correlation_prior(predictions, similarity, form="norm").backward()
    torch.cuda.synchronize()
    print("ran")


if __name__ == "__main__":
    main()
