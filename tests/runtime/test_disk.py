"""The disk's room is measured, and a level is left only with room to spare."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_async.runtime.disk import DiskLevel, DiskLimits, level_after, room_in, used_by

LIMITS = DiskLimits(low_bytes=1_000, full_bytes=200)


@pytest.mark.parametrize(
    ("before", "room", "after"),
    [
        ("ok", 1_000, "ok"),
        ("ok", 999, "low"),
        ("ok", 199, "full"),
        ("low", 1_100, "low"),
        ("low", 1_250, "ok"),
        ("full", 240, "full"),
        ("full", 250, "low"),
        ("full", 1_100, "low"),
        ("full", 2_000, "ok"),
    ],
)
def test_it_gets_worse_at_once_and_better_with_a_quarter_to_spare(
    before: DiskLevel, room: int, after: DiskLevel
) -> None:
    assert level_after(before, room, LIMITS) == after


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=50))
def test_it_is_never_better_than_the_room_there_is(rooms: list[int]) -> None:
    level: DiskLevel = "ok"
    for room in rooms:
        level = level_after(level, room, LIMITS)
        assert level != "ok" or room >= LIMITS.low_bytes
        assert level == "full" or room >= LIMITS.full_bytes


def test_a_quota_bounds_the_room_by_what_the_folder_has_used(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(bytes(100_000))
    (tmp_path / "link").hardlink_to(tmp_path / "deep" / "file")
    used = used_by(tmp_path)
    assert 100_000 <= used < 200_000, "a file with two names takes its room once"
    assert room_in(tmp_path, used + 5_000) == (5_000, used)
    assert room_in(tmp_path, 1) == (0, used)
    assert room_in(tmp_path, 0)[1] is None


def test_a_disk_that_is_full_before_it_is_low_is_refused() -> None:
    with pytest.raises(ValueError, match="low before it is full"):
        DiskLimits(low_bytes=1, full_bytes=2)
