"""The chunked loss against cross entropy and z-loss as PyTorch's autograd has them."""

import pytest
import torch
from torch.nn import functional as F

import models.loss
from models.loss import next_token_loss

N, D, V = 11, 6, 17
Z_LOSS = 0.03


@pytest.fixture(params=[1, 3, 4, 11, 100], ids=lambda tokens: f"chunks of {tokens}")
def chunked(request, monkeypatch):
    """The loss in chunks of some tokens, which may or may not divide N."""
    monkeypatch.setattr(models.loss, "CHUNK_LOGITS", request.param * V)


def inputs(dtype=torch.float64, *, scale=1.0, num_tokens=N):
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(num_tokens, D, generator=generator, dtype=torch.float64)
    head = torch.randn(V, D, generator=generator, dtype=torch.float64)
    targets = torch.randint(V, (num_tokens,), generator=generator)
    return hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_(), targets


def expected_loss(hidden, head, targets, z_loss):
    logits = hidden @ head.T
    return F.cross_entropy(logits, targets) + z_loss * logits.logsumexp(-1).square().mean()


def with_gradients(loss, hidden, head):
    loss.backward()
    return loss.detach(), hidden.grad, head.grad


def test_value_and_gradients_equal_autograds_in_float64(chunked):
    hidden, head, targets = inputs()
    actual = with_gradients(next_token_loss(hidden, head, targets, z_loss=Z_LOSS).total, hidden, head)
    hidden, head, targets = inputs()
    expected = with_gradients(expected_loss(hidden, head, targets, Z_LOSS), hidden, head)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_gradients_equal_finite_differences(chunked):
    hidden, head, targets = inputs()
    assert torch.autograd.gradcheck(lambda h, w: next_token_loss(h, w, targets, z_loss=Z_LOSS).total, (hidden, head))


def test_float32_is_within_1e_6_of_float64(chunked):
    hidden, head, targets = inputs(torch.float32)
    actual = with_gradients(next_token_loss(hidden, head, targets, z_loss=Z_LOSS).total, hidden, head)
    hidden, head, targets = inputs()
    expected = with_gradients(expected_loss(hidden, head, targets, Z_LOSS), hidden, head)
    torch.testing.assert_close([part.double() for part in actual], list(expected), rtol=1e-5, atol=1e-6)


def test_bf16_autocast_is_within_a_hundredth_of_float64():
    hidden, head, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_token_loss(hidden, head, targets, z_loss=Z_LOSS).total
    actual = with_gradients(loss, hidden, head)
    hidden, head, targets = inputs()
    expected = with_gradients(expected_loss(hidden, head, targets, Z_LOSS), hidden, head)
    torch.testing.assert_close([part.double() for part in actual], list(expected), rtol=1e-2, atol=1e-2)


def test_under_autocast_loss_and_gradients_are_float32():
    hidden, head, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = next_token_loss(hidden, head, targets)
    losses.total.backward()
    assert {part.dtype for part in (*losses, hidden.grad, head.grad)} == {torch.float32}


def test_cross_entropy_leaves_the_z_loss_out():
    hidden, head, targets = inputs()
    losses = next_token_loss(hidden, head, targets, z_loss=Z_LOSS)
    torch.testing.assert_close(losses.cross_entropy, expected_loss(hidden, head, targets, 0).detach())


def test_cross_entropy_carries_no_gradient():
    hidden, head, targets = inputs()
    assert not next_token_loss(hidden, head, targets).cross_entropy.requires_grad


def test_gradients_scale_with_what_comes_back():
    hidden, head, targets = inputs()
    single = with_gradients(next_token_loss(hidden, head, targets).total, hidden, head)
    hidden, head, targets = inputs()
    halved = with_gradients(next_token_loss(hidden, head, targets).total / 2, hidden, head)
    torch.testing.assert_close([2 * part for part in halved], list(single))


def test_a_tied_matrix_gets_both_gradients():
    head = inputs()[1]
    targets = torch.arange(V)
    next_token_loss(head, head, targets, z_loss=Z_LOSS).total.backward()
    actual, head.grad = head.grad, None
    expected_loss(head, head, targets, Z_LOSS).backward()
    torch.testing.assert_close(actual, head.grad, rtol=1e-12, atol=1e-14)


def test_without_gradients_the_value_is_the_same():
    hidden, head, targets = inputs()
    with torch.no_grad():
        silent = next_token_loss(hidden, head, targets, z_loss=Z_LOSS).total
    assert torch.equal(silent, next_token_loss(hidden, head, targets, z_loss=Z_LOSS).total.detach())


def test_large_logits_stay_finite():
    hidden, head, targets = inputs(torch.float32, scale=1e4)
    actual = with_gradients(next_token_loss(hidden, head, targets).total, hidden, head)
    assert all(part.isfinite().all() for part in actual)


def test_equal_scores_cost_the_logarithm_of_the_vocabulary():
    hidden, head, targets = inputs()
    losses = next_token_loss(torch.zeros_like(hidden), head, targets, z_loss=1.0)
    log_v = torch.tensor(V, dtype=torch.float64).log()
    torch.testing.assert_close(losses.cross_entropy, log_v)
    torch.testing.assert_close(losses.total, log_v + log_v.square())


def test_a_chunk_holds_one_token_at_least(monkeypatch):
    monkeypatch.setattr(models.loss, "CHUNK_LOGITS", V // 2)
    hidden, head, targets = inputs()
    torch.testing.assert_close(next_token_loss(hidden, head, targets).total, expected_loss(hidden, head, targets, 0))
