"""Token ids to text, one choice at a time, and what a request says in text that the engine takes as ids.

Knows tokenizers and stop strings. Knows nothing of tensors, requests' queues or HTTP. Names are taken from here.
"""

from server.engine.text.bad_words import bad_word_ids
from server.engine.text.choice_text import ChoiceText, TextDelta
from server.engine.text.vocabulary import TokenText, token_text

__all__ = ["ChoiceText", "TextDelta", "TokenText", "bad_word_ids", "token_text"]
