import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging import Encoding, EncodingError, LayerEncoding
from paging.layer_encoding import GROUP_SIZES

KINDS = st.builds(
    lambda encoding, size, rank: LayerEncoding(encoding, size if encoding is Encoding.INT4 else None, rank),
    st.sampled_from(Encoding),
    st.sampled_from(GROUP_SIZES),
    st.none() | st.integers(1, 4096),
)


@given(KINDS)
def test_an_encoding_is_read_as_it_is_written(kind):
    assert kind == LayerEncoding.parse(str(kind))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("int4", LayerEncoding(Encoding.INT4, 32)),
        ("low-rank@7", LayerEncoding(Encoding.BF16, None, 7)),
        ("int4@64", LayerEncoding(Encoding.INT4, 32, 64)),
    ],
)
def test_what_is_not_said_is_the_usual(text, kind):
    assert kind == LayerEncoding.parse(text)


@pytest.mark.parametrize(
    "text", ["", "int5", "int4/", "int8@", "int8@-1", "INT8", "int4/32@8@8", "int4@8/32", "int\uff18"]
)
def test_anything_else_is_no_encoding(text):
    with pytest.raises(EncodingError, match="is no encoding; give one of"):
        LayerEncoding.parse(text)


def test_low_rank_needs_a_rank():
    with pytest.raises(EncodingError, match="low-rank needs a rank"):
        LayerEncoding.parse("low-rank")


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("bf16@65", "rank 65 does not fit layers of 64 values; give 1 to 64"),
        ("bf16@0", "rank 0 does not fit"),
        ("bf16/32", "bf16 takes no group size"),
        ("int4/48", "the group size 48 is none of 32, 64, 128"),
        ("int4/0", "the group size 0 is none of"),
        ("int4/128", "the group size 128 does not divide hidden_size of 64"),
        ("int4/32@40", "the group size 32 does not divide a rank of 40"),
    ],
)
def test_what_cannot_be_had_says_why(text, flaw):
    with pytest.raises(EncodingError, match=flaw):
        LayerEncoding.parse(text).check(64)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("bf16", 256), ("fp32", 512), ("int8", 132), ("int4/32", 72), ("int4/128", 69), ("fp16@5", 10), ("int8@32", 36)],
)
def test_bytes_of_a_layer_of_128_values(text, num_bytes):
    assert num_bytes == LayerEncoding.parse(text).num_bytes(128)
