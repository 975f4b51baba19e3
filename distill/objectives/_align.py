"""Two tokenizations of one text, aligned by bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from docendo.errors import DataError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    r"""What each token adds to the text, as UTF-8 bytes; special tokens add nothing.

    Works for byte-level tokenizers (a token may end inside a character), for SentencePiece ones with their
    word marks and byte tokens, and for those whose tokens are the text itself. Of word pieces and of
    tokenizers that normalise the text the bytes differ from the text's, which `spells` notices.

    Args:
        tokenizer: A Hugging Face tokenizer.
        ids: Token ids.

    Example:
        >>> from transformers import AutoTokenizer  # doctest: +SKIP
        >>> tokenizer = AutoTokenizer.from_pretrained("folder")  # doctest: +SKIP
        >>> token_bytes(tokenizer, tokenizer("naïve").input_ids)  # doctest: +SKIP
        [b'na', b'\xc3\xaf', b've']
    """
    special = set(tokenizer.all_special_ids)
    added = {token: str(one) for token, one in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    byte_level = _is_byte_level(tokenizer)
    found = []
    for token in ids:
        # Some vocabularies have ids that mean nothing.
        piece = added.get(token) or tokenizer.convert_ids_to_tokens(int(token)) or ""
        if token in special:
            found.append(b"")
        elif match := _BYTE.fullmatch(piece):
            found.append(bytes([int(match[1], 16)]))
        elif byte_level and token not in added:
            found.append(_spelt(piece))
        else:
            found.append(piece.replace("\u2581", " ").encode())
    return found


def byte_ends(pieces: Sequence[bytes]) -> list[int]:
    """Where each token ends in the text, in bytes, white space at the text's beginning not counted.

    Whether a text begins with a space is up to the tokenizer or the template, so it is no part of what
    two models are compared on. Tokens of that space alone end at 0. A last token that adds nothing, which
    is the end of the turn, counts as a byte, so that ending is compared by itself.

    Example:
        >>> byte_ends([b" ", b" ab", b"c", b""])
        [0, 2, 3, 4]
    """
    text = b"".join(pieces)
    lead = len(text) - len(text.lstrip())
    ends, place = [], -lead
    for piece in pieces:
        place += len(piece)
        ends.append(max(place, 0))
    if pieces and not pieces[-1]:
        ends[-1] += 1
    return ends


def align(ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[slice, slice]]:
    """The shortest chunks that end at the same byte in both tokenizations, in order.

    Args:
        ours: Byte ends of our tokens, ascending (see `byte_ends`).
        theirs: Byte ends of the other tokens.

    Returns:
        For each chunk the slice of our tokens and that of theirs. Together they hold every token.

    Raises:
        DataError: if the two do not end at the same byte, so that they are not of one text.

    Example:
        >>> align([2, 3, 6], [1, 3, 4, 6])
        [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 3, None), slice(2, 4, None))]
    """
    if (ours[-1] if ours else 0) != (theirs[-1] if theirs else 0):
        raise DataError(
            f"two tokenizations of one text end at byte {ours[-1] if ours else 0} and "
            f"{theirs[-1] if theirs else 0}",
            expected="the same text on both sides",
            remedy="leave out rows whose text one of the tokenizers changes",
        )
    chunks = []
    one = two = start_one = start_two = 0
    while one < len(ours):
        if two < len(theirs) and ours[one] == theirs[two] > 0:
            # Tokens that add nothing belong to what they follow.
            while one + 1 < len(ours) and ours[one + 1] == ours[one]:
                one += 1
            while two + 1 < len(theirs) and theirs[two + 1] == theirs[two]:
                two += 1
            chunks.append((slice(start_one, one + 1), slice(start_two, two + 1)))
            one, two = one + 1, two + 1
            start_one, start_two = one, two
        elif two < len(theirs) and theirs[two] <= ours[one]:
            two += 1
        else:
            one += 1
    return chunks


def spells(pieces: Sequence[bytes], text: str) -> bool:
    r"""Whether tokens make up a text, white space at its beginning aside; some tokenizers change texts.

    Example:
        >>> spells([b" na", b"\xc3", b"\xafve", b""], "na\u00efve")
        True
    """
    return b"".join(pieces).lstrip() == text.encode("utf-8", "surrogatepass").lstrip()


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether tokens are written in GPT-2's alphabet of bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(backend.decoder)


def _spelt(token: str) -> bytes:
    """The bytes of a token in GPT-2's alphabet; one with other characters is the text itself."""
    alphabet = _alphabet()
    if all(char in alphabet for char in token):
        return bytes(alphabet[char] for char in token)
    return token.encode()


@cache
def _alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
