"""The knapsack beside trying everything."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from models.compression.allocation import Option, best

OPTIONS = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 50)), min_size=1, max_size=4), min_size=1, max_size=4
)


def options_of(drawn):
    return [
        [Option(f"{layer}-{index}", num_bytes, float(cost)) for index, (num_bytes, cost) in enumerate(choices)]
        for layer, choices in enumerate(drawn)
    ]


def everything(options, budget):
    """Bytes and cost of every allocation that fits."""
    sums = [(sum(each.num_bytes for each in picked), sum(each.cost for each in picked)) for picked in product(*options)]
    return [found for found in sums if found[0] <= budget]


@settings(max_examples=150)
@given(drawn=OPTIONS, budget=st.integers(0, 120))
def test_the_best_costs_as_little_as_the_best_of_all(drawn, budget):
    options = options_of(drawn)
    found, fitting = best(options, budget, 3), everything(options, budget)
    assert bool(fitting) == bool(found)
    if found:
        assert min(cost for _, cost in fitting) == found[0].cost


@given(drawn=OPTIONS, budget=st.integers(0, 120), count=st.integers(1, 6))
def test_what_is_found_fits_is_as_it_says_and_comes_cheapest_first(drawn, budget, count):
    options = options_of(drawn)
    known = [{option.choice: option for option in layer} for layer in options]
    found = best(options, budget, count)
    assert len(found) <= count
    assert sorted(each.cost for each in found) == [each.cost for each in found]
    for each in found:
        picked = [layer[choice] for layer, choice in zip(known, each.choices, strict=True)]
        assert (sum(o.num_bytes for o in picked), sum(o.cost for o in picked)) == (each.num_bytes, each.cost)
        assert each.num_bytes <= budget


def test_many_layers_with_many_choices_are_no_trouble():
    sizes = [(7919 * index) % 1000 for index in range(240)]
    options = [
        [Option(index, sizes[10 * layer + index], 1000.0 - sizes[10 * layer + index] + index) for index in range(10)]
        for layer in range(24)
    ]
    assert 8 == len(best(options, 12_000, 8))
