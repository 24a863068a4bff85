import json
from pathlib import Path

import pytest

from t2f_dist.training.run import status


def test_figures_stay_until_they_are_given_anew(tmp_path: Path):
    status.write(tmp_path, "running", "started", wandb_id="abc", images_seen=0)
    status.write(tmp_path, "running", "training", images_seen=40)
    status.write(tmp_path, "finished", "all images shown")
    content = status.read(tmp_path)
    updated = content.pop("updated")
    assert content == {"outcome": "finished", "reason": "all images shown", "wandb_id": "abc", "images_seen": 40}
    assert content | {"updated": updated} == json.loads((tmp_path / "status.json").read_text())
    assert updated <= status.now()
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_who_wrote_last_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("T2F_LAUNCH", "job 7")
    status.write(tmp_path, "finished", "all images shown")
    assert status.read(tmp_path)["launch"] == "job 7"
    monkeypatch.setenv("T2F_LAUNCH", "job 8")
    status.note_refusal(tmp_path, "other shards")
    assert status.read(tmp_path)["launch"] == "job 8"
    monkeypatch.delenv("T2F_LAUNCH")
    status.write(tmp_path, "running", "training")
    assert "launch" not in status.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"outcome": "runn', b"[1]", b"\xff\xfe"])
def test_a_status_that_cannot_be_read_is_none_and_is_replaced(tmp_path: Path, content: bytes):
    assert status.read(tmp_path) == {}
    (tmp_path / "status.json").write_bytes(content)
    assert status.read(tmp_path) == {}
    status.write(tmp_path, "failed", "a reason", images_seen=3)
    assert status.read(tmp_path)["outcome"] == "failed"


def test_a_write_that_fails_keeps_the_old_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(source: Path, target: Path) -> None:
        raise OSError("No space left on device")

    status.write(tmp_path, "running", "training", images_seen=40)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        status.write(tmp_path, "finished", "all images shown")
    assert status.read(tmp_path)["outcome"] == "running"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"], "nothing half-written stays"
