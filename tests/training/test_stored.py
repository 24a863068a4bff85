"""The state.json of a stranger: what it says is checked, whatever its checksum."""

import json
from pathlib import Path
from typing import Any

import pytest

from t2f_dist.training.checkpoints import stored
from t2f_dist.training.checkpoints.archive import Archive, DamagedCheckpoint
from tests.training.test_archive import FILES, write


@pytest.mark.parametrize("text", [b"[]", b"null", b"1", b"\xff", b"{" * 100_000, b'{"checksum": 1}', b'{"format": 2}'])
def test_a_state_of_a_stranger_is_damage(text: bytes):
    with pytest.raises(DamagedCheckpoint):
        stored.parsed(text, "images-000000000008", "here")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"files": ["a"]}, "its files have no names"),
        ({"files": {}}, "its files lack networks.safetensors"),
        ({"files": None}, "its files have no names"),
        ({"files": dict.fromkeys(FILES, "0" * 63)}, "its files have no names"),
        ({"files": dict.fromkeys((*FILES, "../../secret"), "0" * 64)}, "its files have no names"),
        ({"bytes": {FILES[0]: "many"}}, "its bytes are no numbers"),
        ({"images_seen": 16}, "its images_seen are not 8"),
        ({"images_seen": 8.0}, "its images_seen are not 8"),
        ({"images_seen": True}, "its images_seen are not 8"),
        ({"dataset": None}, "its dataset is no text"),
        ({"scalers": {"generator": {}}}, "its scalers are not those of two networks"),
        ({"saved": 1e300}, "its time is none"),
        ({"config": []}, "its config is none"),
        ({"config": {"stages": [8]}}, "its config is none"),
        ({"config": {"stages": [{"fade_images": "many"}]}}, "its config is none"),
    ],
)
def test_a_state_with_a_right_checksum_that_no_run_writes_is_damage(tmp_path: Path, changed: dict[str, Any], said: str):
    archive = Archive(tmp_path)
    write(archive, 8)
    state = f"{write(archive, 8)}/state.json"
    right = json.loads(archive.folder.read(state))
    assert right.pop("checksum")
    archive.folder.write(state, stored.sealed(right | changed))
    warnings: list[str] = []
    with pytest.raises(ValueError, match="all 1 checkpoints in"):
        archive.newest_valid(warnings.append)
    assert f"state.json is of no checkpoint: {said}" in warnings[0]


def test_a_state_that_is_too_long_is_not_read_whole(tmp_path: Path):
    archive = Archive(tmp_path)
    with open(tmp_path / write(archive, 8) / "state.json", "r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    with pytest.raises(DamagedCheckpoint, match="more than 4194304 bytes"):
        archive.body("images-000000000008")
