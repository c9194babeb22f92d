"""Bases beside numpy's singular value decomposition of the whole matrix."""

import numpy as np
import pytest
import torch

import paging.basis
from paging.basis import num_passes, spectra

V, L, D = 90, 3, 12


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(V, L, D, generator=generator) * torch.logspace(0, -3, D)


def chunks_of(values, size=40, read=None):
    def chunks(layers):
        if read is not None:
            read.append(layers)
        return iter(values[:, list(layers)].split(size))

    return chunks


def test_singular_values_are_those_of_the_whole_matrix(values):
    found = spectra(chunks_of(values), range(L), hidden_size=D)
    for layer in range(L):
        expected = np.linalg.svd(values[:, layer].double().numpy(), compute_uv=False)
        np.testing.assert_allclose(found[layer].singular_values_D.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 5, D])
def test_a_basis_leaves_out_what_the_best_of_its_rank_does(values, rank):
    found = spectra(chunks_of(values), [1], hidden_size=D)
    matrix = values[:, 1]
    basis = found[1].basis(rank).float()
    singular = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    left = float((matrix - matrix @ basis.T @ basis).double().square().sum())
    # The basis is rounded to bf16.
    assert left == pytest.approx(float((singular[rank:] ** 2).sum()), abs=1e-4 * float((singular**2).sum()))
    torch.testing.assert_close(basis @ basis.T, torch.eye(rank), atol=0.02, rtol=0)


def test_rows_that_count_more_are_kept_better(values):
    weights = torch.ones(V, dtype=torch.float64)
    weights[7] = 1e6
    plain, weighted = (
        spectra(chunks_of(values), [0], hidden_size=D, weights_V=each)[0].basis(2).float() for each in (None, weights)
    )
    row = values[7, 0]
    plain_error, weighted_error = (float((row - row @ basis.T @ basis).norm()) for basis in (plain, weighted))
    assert weighted_error < plain_error
    assert weighted_error < 0.01 * float(row.norm())


def test_layers_whose_matrices_are_too_much_together_take_several_passes(values, monkeypatch):
    together = spectra(chunks_of(values), range(L), hidden_size=D)
    monkeypatch.setattr(paging.basis, "_GRAM_BYTES", 2 * 8 * D * D)
    read, done = [], []
    apart = spectra(chunks_of(values, read=read), range(L), hidden_size=D, on_progress=done.append)
    assert [(0, 1), (2,)] == read
    assert 2 == num_passes(L, D)
    assert 2 * V == sum(done)
    assert all(torch.equal(together[layer].directions_DD, apart[layer].directions_DD) for layer in range(L))


def test_rows_of_zeros_have_a_basis_all_the_same():
    found = spectra(chunks_of(torch.zeros(5, 1, D)), [0], hidden_size=D)
    assert torch.isfinite(found[0].basis(4)).all()
