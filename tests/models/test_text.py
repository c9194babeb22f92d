import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import CorpusError
from models.text import pieces, read_text, sample_text, split_documents, total_bytes
from models.tokenizer import END_OF_TEXT, encode, train_tokenizer

# Text with the things that cutting has to mind: lines, spaces, separators, characters of several bytes.
TEXTS = st.lists(
    st.sampled_from(
        [END_OF_TEXT, f"\n{END_OF_TEXT}\n", "\r\n", "\n", "\n\n", " ", "word", "\u00e9", "\u6f22", "\U0001f600", "7"]
    )
    | st.text(max_size=20),
    max_size=60,
).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def write(folder, *contents):
    paths = []
    for index, content in enumerate(contents):
        paths.append(folder / f"{index}.txt")
        paths[-1].write_bytes(content.encode() if isinstance(content, str) else content)
    return paths


def documents_of(path, piece_bytes):
    documents = [""]
    for piece in pieces(path, piece_bytes=piece_bytes):
        documents[-1] += piece.text
        if piece.ends_document:
            documents.append("")
    return [document for document in documents if document]


def test_text_is_read_byte_for_byte(tmp_path):
    assert read_text(write(tmp_path, "\ufeffone\r\n", "two \u00e9\r")) == "\ufeffone\r\ntwo \u00e9\r"


def test_bad_utf_8_is_named_with_its_offset(tmp_path):
    with pytest.raises(CorpusError, match=r"1.txt is not UTF-8 text: bad byte 0xff at offset 3"):
        read_text(write(tmp_path, "fine", b"abc\xffdef"))


def test_a_missing_text_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"cannot read the text .*nowhere.txt: No such file"):
        read_text([tmp_path / "nowhere.txt"])


def test_a_folder_is_not_a_text(tmp_path):
    with pytest.raises(CorpusError, match=r"cannot read the text .*Is a directory"):
        read_text([tmp_path])


def test_empty_text_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"no text in .*0.txt, .*1.txt"):
        read_text(write(tmp_path, "", ""))


def test_no_files_are_refused():
    with pytest.raises(CorpusError, match="no text in an empty list of files"):
        total_bytes([])


def test_documents_end_at_separator_lines():
    text = f"{END_OF_TEXT}\none\n\n{END_OF_TEXT}\r\n{END_OF_TEXT}\ntwo\n{END_OF_TEXT}"
    assert split_documents(text) == ["one\n\n", "two\n"]


def test_a_separator_inside_a_line_is_text():
    text = f"one {END_OF_TEXT}\n{END_OF_TEXT} two\n"
    assert split_documents(text) == [text]


def test_a_separator_after_another_kind_of_line_end_is_text():
    text = f"one\u2028{END_OF_TEXT}\n"
    assert split_documents(text) == [text]


@given(text=TEXTS, piece_bytes=st.integers(15, 80))
def test_pieces_join_to_the_documents(folder, text, piece_bytes):
    [path] = write(folder, text)
    assert documents_of(path, piece_bytes) == split_documents(text)


@given(text=TEXTS, piece_bytes=st.integers(15, 80))
def test_pieces_account_for_every_byte(folder, text, piece_bytes):
    [path] = write(folder, text)
    assert sum(piece.num_bytes for piece in pieces(path, piece_bytes=piece_bytes)) == len(text.encode())


@given(text=TEXTS, piece_bytes=st.integers(15, 80))
def test_pieces_are_bounded(folder, text, piece_bytes):
    [path] = write(folder, text)
    assert all(len(piece.text.encode()) <= 3 * piece_bytes for piece in pieces(path, piece_bytes=piece_bytes))


@given(data=st.binary(max_size=200), piece_bytes=st.integers(15, 40))
def test_bad_utf_8_in_pieces_is_found_at_its_offset(folder, data, piece_bytes):
    [path] = write(folder, b"word " * 20 + data)
    try:
        expected = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(CorpusError, match=rf"at offset {error.start};"):
            documents_of(path, piece_bytes)
    else:
        assert "".join(documents_of(path, piece_bytes)) == expected


@given(
    words=st.lists(st.sampled_from(["it's", " a", " ", "\n", "\n\n", "12345", "...", "\t", "\r\n", "(b"]), max_size=80)
)
def test_cuts_at_lines_and_spaces_change_no_token(folder, words):
    tokenizer = train_tokenizer(["it's a\n\n12345... (b\r\n\t \n" * 9], vocab_size=300)
    text = "x ".join(words)
    [path] = write(folder, text)
    ids = [token_id for piece in pieces(path, piece_bytes=30) for token_id in encode(tokenizer, piece.text)]
    assert ids == encode(tokenizer, text)


def test_a_line_is_not_cut_where_another_line_starts(tmp_path):
    [path] = write(tmp_path, "a few words\n" * 20)
    assert {piece.text[-1] for piece in pieces(path, piece_bytes=50)} == {"\n"}


def test_all_of_a_small_corpus_is_sampled(tmp_path):
    paths = write(tmp_path, f"one\n{END_OF_TEXT}\ntwo", "three")
    assert [*sample_text(paths, max_bytes=1000)] == ["one\n", "two", "three"]


def test_a_sample_is_spread_over_all_files(tmp_path):
    paths = write(tmp_path, *(f"{name} line\n" * 1000 for name in "abcd"))
    windows = [*sample_text(paths, max_bytes=3200, window_bytes=200)]
    assert [window[0] for window in windows] == [name for name in "abcd" for _ in range(4)]


def test_a_sample_is_bounded(tmp_path):
    paths = write(tmp_path, *(["a line\n" * 50] * 40))
    sampled = sum(map(len, sample_text(paths, max_bytes=2000, window_bytes=500)))
    assert 1000 < sampled <= 2000


def test_a_sample_holds_whole_lines(tmp_path):
    paths = write(tmp_path, "a whole line\n" * 1000)
    lines = {line for window in sample_text(paths, max_bytes=3000, window_bytes=300) for line in window.splitlines()}
    assert lines == {"a whole line"}


def test_a_sample_has_no_separators(tmp_path):
    paths = write(tmp_path, f"a line\n{END_OF_TEXT}\n" * 1000)
    assert set(sample_text(paths, max_bytes=3000, window_bytes=300)) == {"a line\n"}


def test_a_sample_of_one_long_line_has_whole_characters(tmp_path):
    paths = write(tmp_path, "\u6f22" * 5000)
    assert set("".join(sample_text(paths, max_bytes=3000, window_bytes=100))) == {"\u6f22"}


def test_bad_utf_8_in_a_sample_is_named(tmp_path):
    [path] = write(tmp_path, b"\xff" * 4000)
    with pytest.raises(CorpusError, match=r"0.txt is not UTF-8 text"):
        [*sample_text([path], max_bytes=1000)]
