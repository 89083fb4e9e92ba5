"""The data sets: their content, and what a bad file or a broken download leads to."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import importlib
import os
import pickle
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flatlib import files
from flatlib.lab.data import DataError, cifar10, data_folder, fashion_mnist, load, vision

# The function `flatlib.lab.data.cifar10` hides the module of the same name.
cifar10_module = importlib.import_module("flatlib.lab.data.cifar10")
fashion_module = importlib.import_module("flatlib.lab.data.fashion_mnist")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("FLATLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class TestEmbedded:
    def test_digits_are_scikit_learns_divided_by_16(self):
        from sklearn.datasets import load_digits

        data, original = load("digits"), load_digits()
        ours = torch.cat([data.train_x, data.test_x]).numpy()
        labels = torch.cat([data.train_y, data.test_y]).argmax(dim=1).numpy()
        theirs = (original.data / 16).astype(np.float32)
        # The split reorders samples; sorted with their labels, both sides are the same rows.
        assert np.array_equal(
            np.unique(np.column_stack([ours, labels]), axis=0),
            np.unique(np.column_stack([theirs, original.target]), axis=0),
        )
        assert len(ours) == len(theirs)

    def test_digits_split_is_stratified_and_always_the_same(self):
        data = load("digits")
        shares = data.test_y.sum(0) / (data.test_y.sum(0) + data.train_y.sum(0))
        assert ((shares - 0.2).abs() < 0.01).all()
        assert load("digits").content_hash == data.content_hash
        assert data.content_hash.startswith("00b2392bbc2ae26c")

    def test_digit_images_repeat_each_pixel(self):
        flat, images = load("digits", classes=(0, 1)), load("digit-images", classes=(1, 0))
        assert images.train_x.shape == (len(flat.train_x), 1, 32, 32)
        assert torch.equal(images.train_x[:, 0, ::4, ::4].flatten(1), flat.train_x)
        assert torch.equal(images.train_x[:, 0, 3::4, 2::4].flatten(1), flat.train_x)

    def test_two_classes_keep_ten_outputs(self):
        data = load("digits", classes=(3, 7))
        assert data.classes == (3, 7)
        assert data.name == "digits-3-7"
        assert data.train_y.shape[1] == 10
        assert set(data.train_y.argmax(dim=1).tolist()) == {3, 7}

    def test_gaussian_samples_scatter_around_their_centers(self):
        data = load("gaussian", n=3000, M=4, N=3, noise=0.5, seed=2)
        labels = data.train_y.argmax(dim=1)
        for label in range(3):
            cluster = data.train_x[labels == label]
            other = data.test_x[data.test_y.argmax(dim=1) == label]
            assert torch.allclose(cluster.std(dim=0), torch.full((4,), 0.5), rtol=0.1)
            assert torch.allclose(cluster.mean(dim=0), other.mean(dim=0), atol=0.1)

    def test_gaussian_depends_on_its_seed_alone(self):
        before = torch.random.get_rng_state()
        first = load("gaussian", seed=1)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(99)
        assert load("gaussian", seed=1).content_hash == first.content_hash
        assert load("gaussian", seed=2).content_hash != first.content_hash

    @pytest.mark.parametrize("name", ["digits", "digit-images", "gaussian"])
    def test_tensors_are_float32_and_targets_one_hot(self, name):
        data = load(name)
        for tensor in (data.train_x, data.train_y, data.test_x, data.test_y):
            assert tensor.dtype == torch.float32
        assert torch.equal(data.train_y.sum(dim=1), torch.ones(len(data.train_y)))
        assert set(data.train_y.unique().tolist()) == {0.0, 1.0}


class TestBadArguments:
    @pytest.mark.parametrize(
        ("name", "options", "says"),
        [
            ("mnist", {}, "no data set is called 'mnist'"),
            ("digits", {"seed": 1}, "takes no option seed; it takes classes"),
            ("fashion-mnist", {"classes": (0,)}, "takes no option classes; it takes none"),
            ("digits", {"classes": ()}, "from 0 to 9"),
            ("digits", {"classes": (1, 1)}, r"got \(1, 1\)"),
            ("cifar10", {"classes": (0, 10)}, r"got \(0, 10\)"),
            ("gaussian", {"n": 0}, "n=0"),
            ("gaussian", {"noise": float("nan")}, "noise=nan"),
        ],
    )
    def test_names_the_fault(self, name, options, says):
        with pytest.raises(ValueError, match=says):
            load(name, **options)

    def test_first_samples(self):
        data = load("digits")
        part = data.first(7)
        assert part.name == "digits-first-7"
        assert torch.equal(part.train_x, data.train_x[:7])
        assert part.test_x is data.test_x
        assert part.content_hash != data.content_hash
        for n in (0, 1443):
            with pytest.raises(ValueError, match=f"1442 training samples; asked for the first {n}"):
                data.first(n)


def test_folder_is_flatlib_data_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FLATLIB_DATA", "~/here")
    assert data_folder() == Path.home() / "here"
    monkeypatch.delenv("FLATLIB_DATA")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "flatlib"


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def fashion_files(monkeypatch) -> dict[str, bytes]:
    """Four small files in FashionMNIST's format, whose hashes the loader expects."""
    random = np.random.default_rng(0)
    content = {}
    for name, n in (("train", 30), ("t10k", 12)):
        images = idx(random.integers(0, 256, (n, 28, 28)))
        content[f"{name}-images-idx3-ubyte.gz"] = images
        content[f"{name}-labels-idx1-ubyte.gz"] = idx(np.arange(n) % 10)
    hashes = {name: hashlib.sha256(file).hexdigest() for name, file in content.items()}
    monkeypatch.setattr(fashion_module, "FILES", hashes)
    return content


def put_fashion(folder: Path, content: dict[str, bytes]) -> Path:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, file in content.items():
        (raw / name).write_bytes(file)
    return raw


class FakeFashion:
    """torchvision's data set over a network that may break after some files."""

    def __init__(self, content, breaks_after=99):
        self.content, self.breaks_after = content, breaks_after

    def FashionMNIST(self, root, download):
        raw = Path(root) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for count, (name, file) in enumerate(self.content.items()):
            if count == self.breaks_after:
                (raw / name).write_bytes(file[: len(file) // 2])
                raise OSError("connection lost")
            (raw / name).write_bytes(file)


class TestFashionMNIST:
    def test_pixels_and_labels(self, folder, fashion_files):
        put_fashion(folder, fashion_files)
        data = load("fashion-mnist")
        images = gzip.decompress(fashion_files["train-images-idx3-ubyte.gz"])[16:]
        expected = np.frombuffer(images, np.uint8).reshape(30, 784).astype(np.float32) / 255
        assert np.array_equal(data.train_x.numpy(), expected)
        assert data.test_y.argmax(dim=1).tolist() == [i % 10 for i in range(12)]

    def test_downloads_what_is_missing(self, folder, fashion_files, monkeypatch):
        monkeypatch.setattr(vision, "datasets", lambda: FakeFashion(fashion_files))
        first = load("fashion-mnist")
        monkeypatch.setattr(vision, "datasets", lambda: pytest.fail("downloaded twice"))
        assert load("fashion-mnist").content_hash == first.content_hash

    @pytest.mark.parametrize("breaks_after", range(4))
    def test_broken_download_leaves_nothing(self, folder, fashion_files, monkeypatch, breaks_after):
        fake = FakeFashion(fashion_files, breaks_after)
        monkeypatch.setattr(vision, "datasets", lambda: fake)
        with pytest.raises(DataError, match="downloading it failed: connection lost"):
            load("fashion-mnist")
        assert files_below(folder) == []

    def test_a_missing_file_is_named(self, folder, fashion_files, monkeypatch):
        raw = put_fashion(folder, fashion_files)
        (raw / "t10k-labels-idx1-ubyte.gz").unlink()
        monkeypatch.setattr(vision, "datasets", lambda: FakeFashion(fashion_files, 0))
        with pytest.raises(DataError, match=rf"\(t10k-labels-idx1-ubyte.gz in {raw}\) is not in"):
            load("fashion-mnist")

    def test_wrong_download_leaves_nothing(self, folder, fashion_files, monkeypatch):
        wrong = {name: file + b"x" for name, file in fashion_files.items()}
        monkeypatch.setattr(vision, "datasets", lambda: FakeFashion(wrong))
        with pytest.raises(DataError, match="train-images-idx3-ubyte.gz is truncated or altered"):
            load("fashion-mnist")
        assert files_below(folder) == []

    @pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b[:50] + b"x" + b[51:]])
    def test_bad_file_is_named_with_what_was_expected(self, folder, fashion_files, spoil):
        raw = put_fashion(folder, fashion_files)
        name = "t10k-images-idx3-ubyte.gz"
        (raw / name).write_bytes(spoil(fashion_files[name]))
        expected = hashlib.sha256(fashion_files[name]).hexdigest()
        with pytest.raises(DataError, match=f"{name} is truncated or altered.*{expected}.*Delete"):
            load("fashion-mnist")

    def test_folder_that_cannot_be_made(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("FLATLIB_DATA", str(tmp_path / "file"))
        with pytest.raises(DataError, match="set FLATLIB_DATA to a folder"):
            load("fashion-mnist")

    def test_the_real_one(self):
        if not (data_folder() / "FashionMNIST" / "raw").exists():
            pytest.skip("FLATLIB_DATA holds no FashionMNIST")
        data = fashion_mnist()
        assert data.train_x.shape == (60_000, 784)
        assert data.train_y.sum(0).tolist() == [6000.0] * 10
        assert data.train_y[:5].argmax(dim=1).tolist() == [9, 0, 0, 3, 0]
        assert data.train_x.amax() == 1


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve folders over HTTP on this machine; gives a folder's address."""
    servers = []

    def start(folder: Path) -> str:
        handler = functools.partial(QuietHandler, directory=folder)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cifar_archive(tmp_path, monkeypatch, serve) -> Path:
    """A small archive in CIFAR-10's format, from which torchvision's own class downloads."""
    random = np.random.default_rng(0)
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()

    def put(name: str, content: dict) -> list[str]:
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def batch(name: str, n: int) -> list[str]:
        labels = [int(label) for label in random.permutation(n) % 10]
        return put(name, {"data": random.integers(0, 256, (n, 3072), np.uint8), "labels": labels})

    train = [batch(f"data_batch_{i}", 40) for i in range(1, 6)]
    test = [batch("test_batch", 40)]
    meta = put("batches.meta", {"label_names": [str(i) for i in range(10)]})
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, base.name)
    dataset = vision.datasets().CIFAR10
    monkeypatch.setattr(dataset, "url", f"{serve(tmp_path)}/{archive.name}")
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(dataset, "train_list", train)
    monkeypatch.setattr(dataset, "test_list", test)
    names = {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    monkeypatch.setattr(dataset, "meta", names)
    monkeypatch.setattr(cifar10_module, "IMAGES", {"train": 20, "test": 4})
    monkeypatch.setattr(cifar10_module, "CONTENT", content_of_classes(base))
    return archive


def content_of_classes(base: Path) -> list[str]:
    """The hash of each class's arrays, straight from the batches."""
    sets = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    arrays = {}
    for part, names in sets.items():
        batches = [pickle.loads((base / name).read_bytes()) for name in names]
        rows = np.concatenate([batch["data"] for batch in batches])
        labels = np.concatenate([batch["labels"] for batch in batches])
        arrays[part] = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.uint8)
    content = []
    for label in range(10):
        of_class = {}
        for part, (images, labels) in arrays.items():
            index = np.flatnonzero(labels == label).astype(np.int32)
            of_class[f"{part}_images"] = images[index]
            of_class[f"{part}_labels"] = labels[index]
            of_class[f"{part}_index"] = index
        content.append(files.array_hash(of_class))
    return content


class TestCIFAR10:
    def test_takes_classes_out_of_torchvisions_set(self, folder, cifar_archive):
        data = load("cifar10", classes=(5, 2))
        whole = vision.datasets().CIFAR10(folder, train=True)
        chosen = np.isin(whole.targets, (2, 5))
        expected = whole.data[chosen].transpose(0, 3, 1, 2).astype(np.float32) / 255
        assert np.array_equal(data.train_x.numpy(), expected)
        assert data.train_y.argmax(1).tolist() == np.array(whole.targets)[chosen].tolist()
        assert data.name == "cifar10-2-5"
        with np.load(folder / "cifar10_classes_2_5.npz") as cache:
            assert np.array_equal(cache["train_index"], np.flatnonzero(chosen))

    def test_second_load_reads_the_cache_alone(self, folder, cifar_archive, monkeypatch):
        first = load("cifar10", classes=(0, 1))
        assert "cifar10_2class.npz" in files_below(folder)
        monkeypatch.setattr(vision, "datasets", lambda: pytest.fail("not from the cache"))
        assert load("cifar10", classes=(0, 1)).content_hash == first.content_hash

    def test_broken_download_leaves_nothing(self, folder, cifar_archive):
        cifar_archive.write_bytes(cifar_archive.read_bytes()[:-100])
        with pytest.raises(DataError, match="CIFAR-10 is not in .* downloading it failed"):
            load("cifar10", classes=(0, 1))
        assert files_below(folder) == []

    def test_disk_full_while_caching_leaves_no_cache(self, folder, cifar_archive, monkeypatch):
        def full(*arguments, **arrays):
            arguments[0].write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez_compressed", full)
        with pytest.raises(OSError, match="No space left"):
            load("cifar10", classes=(0, 1))
        assert not [name for name in files_below(folder) if "npz" in name]

    def test_altered_batch_is_named(self, folder, cifar_archive):
        load("cifar10", classes=(0, 1))
        batch = folder / "cifar-10-batches-py" / "data_batch_3"
        batch.write_bytes(batch.read_bytes()[:-1] + b"x")
        with pytest.raises(DataError, match="data_batch_3 is truncated or altered: expected MD5"):
            load("cifar10", classes=(2, 3))
        batch.unlink()
        with pytest.raises(DataError, match="data_batch_3 is missing. Delete the folder"):
            load("cifar10", classes=(2, 3))

    def test_truncated_cache_is_named(self, folder, cifar_archive):
        load("cifar10", classes=(0, 1))
        path = folder / "cifar10_2class.npz"
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(DataError, match="cifar10_2class.npz is truncated or altered"):
            load("cifar10", classes=(0, 1))

    @pytest.mark.parametrize("name", ["train_images", "test_labels", "train_index"])
    def test_one_changed_number_of_any_classes_is_found(self, folder, cifar_archive, name):
        """Even where the file says that its own content is right."""
        load("cifar10", classes=(2, 5))
        path = folder / "cifar10_classes_2_5.npz"
        with np.load(path) as cache:
            arrays = {key: cache[key] for key in cache}
        arrays[name][0] ^= 1
        inner = {key: array for key, array in arrays.items() if key != "content_sha256"}
        arrays["content_sha256"] = np.array(files.array_hash(inner))
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=r"expected class [25] with SHA-256"):
            load("cifar10", classes=(2, 5))

    def test_another_order_of_the_images_is_found(self, folder, cifar_archive):
        load("cifar10", classes=(2, 5))
        path = folder / "cifar10_classes_2_5.npz"
        with np.load(path) as cache:
            arrays = {key: cache[key] for key in cache if key != "content_sha256"}
        order = np.argsort(arrays["train_labels"], kind="stable")
        arrays |= {key: a[order] for key, a in arrays.items() if key.startswith("train")}
        inner = np.array(files.array_hash(arrays))
        np.savez(path, **arrays, content_sha256=inner)
        with pytest.raises(DataError, match="train_index in the original order"):
            load("cifar10", classes=(2, 5))

    def test_a_cache_takes_no_more_memory_than_its_classes_need(self, folder, cifar_archive):
        load("cifar10", classes=(2, 5))
        path = folder / "cifar10_classes_2_5.npz"
        with np.load(path) as cache:
            arrays = {key: cache[key] for key in cache}
        arrays["test_images"] = np.zeros((2**13, 32, 32, 3), np.uint8)  # 25 MB in 25 kB
        np.savez_compressed(path, **arrays)
        with pytest.raises(DataError, match=r"test_images is said to be uint8 of shape \(8192, "):
            load("cifar10", classes=(2, 5))

    def test_what_killed_processes_left_goes_a_day_later(self, folder, cifar_archive):
        old = [folder / ".download-a" / "half", folder / ".cifar10_2class.npz-a.part"]
        young = [folder / ".download-b" / "half", folder / ".cifar10_2class.npz-b.part"]
        for path in old + young:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        two_days_ago = time.time() - 2 * 24 * 3600
        for path in (old[0].parent, old[1]):
            os.utime(path, (two_days_ago, two_days_ago))
        load("cifar10", classes=(2, 5))
        assert [path.exists() for path in old + young] == [False, False, True, True]

    def test_a_folder_in_place_of_a_file_is_named(self, folder, cifar_archive, fashion_files):
        load("cifar10", classes=(0, 1))
        (folder / "cifar10_classes_2_3.npz").mkdir()
        with pytest.raises(DataError, match="cifar10_classes_2_3.npz is truncated or altered"):
            load("cifar10", classes=(2, 3))
        batch = folder / "cifar-10-batches-py" / "data_batch_3"
        batch.unlink()
        batch.mkdir()
        with pytest.raises(DataError, match="data_batch_3 is a folder, not a file"):
            load("cifar10", classes=(4, 5))
        raw = put_fashion(folder, fashion_files)
        images = raw / "train-images-idx3-ubyte.gz"
        images.unlink()
        images.mkdir()
        with pytest.raises(DataError, match="expected a file, found a folder"):
            load("fashion-mnist")

    def test_the_real_one(self):
        if not (data_folder() / "cifar10_2class.npz").exists():
            pytest.skip("FLATLIB_DATA holds no CIFAR-10")
        data = cifar10((0, 1))
        assert data.train_x.shape == (10_000, 3, 32, 32)
        assert data.train_y.sum(0).tolist() == [5000.0, 5000.0] + [0.0] * 8
        assert data.test_x.shape == (2_000, 3, 32, 32)


class TestTorchvision:
    def test_data_sets_import_beside_this_torch(self):
        assert vision.datasets().FashionMNIST.__name__ == "FashionMNIST"

    def test_healthy_torchvision_is_not_touched(self, monkeypatch):
        healthy = object()
        monkeypatch.setattr(vision.importlib, "import_module", lambda name: healthy)
        monkeypatch.setattr(vision, "_declare_operators", lambda: pytest.fail("touched"))
        assert vision.datasets() is healthy

    def test_mismatched_torchvision_is_tried_again(self, monkeypatch):
        calls = []

        def refuse_once(name):
            calls.append(name)
            if len(calls) == 1:
                raise RuntimeError("operator torchvision::nms does not exist")
            return "imported"

        monkeypatch.setattr(vision.importlib, "import_module", refuse_once)
        monkeypatch.setattr(vision, "_declare_operators", lambda: calls.append("declared"))
        assert vision.datasets() == "imported"
        assert calls[1] == "declared"

    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            (ModuleNotFoundError("No module named 'torchvision'"), "pip install torchvision"),
            (RuntimeError("something else"), "does not import: something else"),
        ],
    )
    def test_other_faults_are_told(self, monkeypatch, fault, says):
        def fail(name):
            raise fault

        monkeypatch.setattr(vision.importlib, "import_module", fail)
        with pytest.raises(DataError, match=says):
            vision.datasets()
