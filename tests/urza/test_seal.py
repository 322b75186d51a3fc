"""What may run code is read only under this installation's own seal."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from esper_async.leyline.signing import Signer
from esper_async.urza import Library
from esper_async.urza.errors import SealError

OURS, THEIRS = Signer(bytes(32)), Signer(bytes([1]) * 32)


def opened(directory: Path, signer: Signer | None = OURS) -> Library:
    return Library(directory, signer=signer)


def read_again(directory: Path, signer: Signer | None, *, sealed: bool = True) -> bytes | None:
    with closing(opened(directory, signer)) as library:
        return library.read("compiled", sealed=sealed)


def put(library: Library, content: bytes = b"program", sealed: bool = True):
    return library.put("compiled", content, kind="program", sealed=sealed)


def test_what_was_sealed_here_is_read_here(tmp_path: Path):
    library = opened(tmp_path)
    put(library)
    for _ in range(2):
        assert library.read("compiled", sealed=True) == b"program"
    library.close()
    assert read_again(tmp_path, OURS) == b"program"


@pytest.mark.parametrize("signer", [None, THEIRS], ids=["no key", "another key"])
def test_under_another_key_or_none_it_is_absent(tmp_path: Path, signer: Signer | None):
    library = opened(tmp_path)
    put(library)
    library.close()
    assert read_again(tmp_path, signer) is None
    assert read_again(tmp_path, signer, sealed=False) is None


def test_an_unsealed_asset_is_not_read_as_a_sealed_one_even_from_memory(tmp_path: Path):
    library = opened(tmp_path)
    put(library, sealed=False)
    assert library.read("compiled") == b"program"
    assert library.read("compiled", sealed=True) is None
    library.close()


def test_a_seal_moved_to_other_content_does_not_hold(tmp_path: Path):
    library = opened(tmp_path)
    seal = put(library).seal
    forged = put(library, b"other", sealed=False)
    library._shelves.change(forged.id, "forged", lambda asset: replace(asset, seal=seal), {})
    assert library.get("compiled").seal == seal
    assert library.read("compiled", sealed=True) is None
    library.close()


def test_sealing_without_a_key_is_refused_and_leaves_nothing(tmp_path: Path):
    library = opened(tmp_path, None)
    with pytest.raises(SealError, match="without a signer"):
        put(library)
    assert library.get("compiled") is None
    library.close()


def test_under_a_new_key_the_same_content_is_sealed_anew(tmp_path: Path):
    library = opened(tmp_path, THEIRS)
    put(library)
    library.close()
    ours = opened(tmp_path)
    assert put(ours).version == 2
    assert ours.read("compiled", sealed=True) == b"program"
    ours.close()


def test_a_key_that_was_replaced_still_opens_what_it_sealed(tmp_path: Path):
    library = opened(tmp_path)
    put(library)
    library.close()
    rotated = Signer(bytes([2]) * 32, also_accept=[(bytes(32), float("inf"))])
    assert read_again(tmp_path, rotated) == b"program"


def test_a_damaged_blob_under_a_seal_is_absent(tmp_path: Path):
    library = opened(tmp_path)
    asset = put(library)
    library._shelves._blobs.path(asset.blob).write_bytes(b"progran")
    assert library.read("compiled", sealed=True) is None
    library.close()
