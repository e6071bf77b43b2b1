import pytest

from jaxseg.files import atomic_write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_the_file_appears_whole_at_the_end(tmp_path, sync):
    path = tmp_path / "a.json"
    with atomic_write(path, sync=sync) as partial:
        partial.write_text("first half, ")
        assert not path.exists()
        assert partial.parent == tmp_path  # the same file system, so the move is atomic
        with partial.open("a") as file:
            file.write("second half")
    assert path.read_text() == "first half, second half"
    assert names(tmp_path) == ["a.json"]


def test_the_original_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("original")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "original"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_keeps_the_original_and_leaves_no_partial_file(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("original")

    def write():
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "original"
    assert names(tmp_path) == ["a.json"]


def test_an_error_before_anything_is_written_creates_no_file(tmp_path):
    with pytest.raises(ValueError), atomic_write(tmp_path / "a.json"):
        raise ValueError
    assert names(tmp_path) == []


def test_two_writers_of_one_file_do_not_share_a_partial_file(tmp_path):
    path = tmp_path / "a.json"
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last to finish
    assert names(tmp_path) == ["a.json"]
