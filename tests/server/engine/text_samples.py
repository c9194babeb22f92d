"""Tokenizers for tests of text, and pushes cut anywhere."""

from functools import cache
from itertools import pairwise

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from models.tokenizer import train_tokenizer
from server.engine.params import SamplingParams
from server.engine.text import ChoiceText

TEXT = "Once upon a time a toll was paid in brød, crème brûlée and 日本語, said the 👩‍👩‍👧 family. ééé ééé 日本 日本. "


@cache
def byte_level():
    """A byte-level BPE whose merges end inside characters, with tokens added to it."""
    tokenizer = train_tokenizer([TEXT * 5], vocab_size=330)
    tokenizer.add_special_tokens(["<|start|>"])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


@cache
def byte_fallback():
    """A vocabulary in LLaMA-2's manner: a mark for spaces, bytes as tokens of their own."""
    pieces = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁b", "ab", "é"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b")]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def token_ids(tokenizer):
    """Ids of every kind, one beyond the vocabulary among them."""
    size = tokenizer.get_vocab_size()
    special = st.sampled_from(sorted(tokenizer.get_added_tokens_decoder()))
    real = st.text(max_size=6).map(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    return st.lists(st.one_of(real, st.integers(0, size).map(lambda one: [one]), special.map(lambda one: [one]))).map(
        lambda parts: [token_id for part in parts for token_id in part]
    )


def chunks(ids, cuts):
    """`ids` in pieces, cut before these positions; some pieces may be empty."""
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    return [ids[start:end] for start, end in pairwise(edges)]


def run(tokenizer, pieces, *, prompt_ids=(), params=None, **last):
    """Push pieces until the output ends; return the deltas."""
    choice = ChoiceText(tokenizer, prompt_ids, params or SamplingParams())
    deltas = []
    for index, piece in enumerate(pieces):
        is_last = index == len(pieces) - 1
        deltas.append(choice.push(piece, is_last=is_last, **(last if is_last else {})))
        if deltas[-1].stop_string is not None:
            break
    return deltas


def text_of(deltas):
    return "".join(delta.text for delta in deltas)
