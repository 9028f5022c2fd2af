"""Driving a clone of the authors' code; here one of our own making with its modules' names."""

from pathlib import Path
from textwrap import dedent

import pytest

from benchmarks import inputs, published

FILES = {
    "utils/read_clip.py": """
        import cv2
        import numpy as np

        def read(folder, start, grey):
            kind = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
            names = (f"{folder}/frame{start + t:06d}.jpg" for t in range(16))
            return np.array([cv2.resize(cv2.imread(name, kind), (171, 128)) for name in names])
    """,
    "utils/video_transforms.py": """
        class RandomCrop:
            def __init__(self, size):
                self.size = size
            def __call__(self, sample):
                return {k: v[:, : self.size, : self.size] for k, v in sample.items()}

        class RandomHorizontalFlip:
            def __init__(self, share):
                pass
            def __call__(self, sample):
                return sample

        class ToTensor:
            def __call__(self, sample):
                return sample | {"rgb_clip": sample["rgb_clip"].transpose(3, 0, 1, 2)}
    """,
    "sts/labels.py": """
        import numpy as np
        from kernels.flow.code import encode
        from kernels.labels import clip_labels

        def labels(sample):
            frames = np.ascontiguousarray(sample["rgb_clip"][::-1].transpose(1, 2, 3, 0))
            flow = encode(np.stack([sample["u_flow"], sample["v_flow"]], -1))
            return clip_labels(frames[None], flow[None], "reference")[0]
    """,
    "sts/generate_motion_label.py": """
        from sts.labels import labels

        def motion_statistics(flags, sample):
            return sample.update(motion_label=labels(sample)[:14]) or sample
    """,
    "sts/generate_app_label.py": """
        from sts.labels import labels

        def app_statistics(flags, sample):
            return sample.update(app_label=labels(sample)[14:]) or sample
    """,
    "datasets/ucf101_dataset.py": """
        import numpy as np
        from torchvision import transforms  # as theirs, without using it
        from utils.read_clip import read
        from sts import generate_app_label, generate_motion_label

        class ucf101:
            def __init__(self, data_list, rgb_prefix, flow_x_prefix, flow_y_prefix, transforms):
                self.lines = open(data_list).read().splitlines()
                self.folders = rgb_prefix, flow_x_prefix, flow_y_prefix
                self.transforms = transforms
            def __len__(self):
                return len(self.lines)
            def __getitem__(self, i):
                name, start, _ = self.lines[i].split()
                rgb, u, v = self.folders
                video = name.split("/")[1]
                sample = {"rgb_clip": read(f"{rgb}/{name}", int(start), False)}
                for key, folder in (("u_flow", u), ("v_flow", v)):
                    code = read(f"{folder}/{video}", int(start), True).astype(np.float32)
                    sample[key] = code * 40 / 255 - 20
                sample = self.transforms(sample)
                sample = generate_motion_label.motion_statistics((1, 1, 1, 1), sample)
                return generate_app_label.app_statistics((1, 1, 1, 1), sample)
    """,
}


@pytest.fixture(scope="session")
def prepared(few_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs.in_published_layout(few_samples, tmp_path_factory.mktemp("layout"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(dedent(text))
    return tmp_path


def test_their_loader_and_ours_are_timed_in_turns(
    clone: Path,
    prepared: Path,
    few_samples: Path,
    few_reels: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(published, "ROUNDS", 2)
    rows = published.published(clone, prepared, few_samples, few_reels, 0.01, workers=0)
    theirs, *ours = [row for row in rows if row["input"] != "arrays"]
    assert theirs["input"] == "JPEG folders"
    assert [row["input"] for row in ours] == ["JPEG folders", "reels", "reels", "videos", "videos"]
    for row in ours:
        wanted = theirs["us_per_clip"] / row["us_per_clip"]
        assert row["ratio"] == pytest.approx(wanted, rel=0.02)
    their_labels, our_labels = rows[-2:]
    wanted = their_labels["us_per_clip"] / our_labels["us_per_clip"]
    assert our_labels["ratio"] == pytest.approx(wanted, rel=0.02)


def test_a_clone_with_other_labels_is_not_timed(
    clone: Path, prepared: Path, few_samples: Path, few_reels: Path
) -> None:
    file = clone / "sts/generate_app_label.py"
    file.write_text(file.read_text().replace("[14:]", "[14:] + 1"))
    with pytest.raises(SystemExit, match=r"published code: \d+ labels differ .*: \S+/\S+ 1dp"):
        published.published(clone, prepared, few_samples, few_reels, 0.01, workers=0)


def test_what_is_no_clone_is_named(
    tmp_path: Path, prepared: Path, few_samples: Path, few_reels: Path
) -> None:
    with pytest.raises(SystemExit, match=r"ucf101_dataset\.py: no such file; --published wants"):
        published.published(tmp_path, prepared, few_samples, few_reels, 0.01)
    with pytest.raises(SystemExit, match=r"train\.list: no such file; make it with"):
        published.published(tmp_path, tmp_path, few_samples, few_reels, 0.01)
