"""Files from elsewhere: whatever is in them, a reader gives its data or its one error."""

import contextlib
import gzip
import io
import json
import random
import struct
import zipfile
import zlib

import jax
import numpy as np
import pytest
from mutations import fuzz, json_bytes, mutated_bytes, mutated_json, nested
from small_results import small_entry, small_results

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.idx import read_idx
from comm_lopt.data.sources.npz import read_npz
from comm_lopt.data.sources.prepared import read_prepared, writing_prepared
from comm_lopt.data.sources.text import read_text
from comm_lopt.meta_test.check_results import check_sweep, read_json

MOST_SECONDS, MOST_MEMORY_MB = 5.0, 100
QUICK, LONG = 300, 25_000


def split_safetensors(content):
    """The JSON header of a safetensors file, with our own header read as well, and the values."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["comm_lopt"] = json.loads(header["__metadata__"]["comm_lopt"])
    return header, content[8 + size :]


def joined_safetensors(header, values, rng):
    """The inverse; a header that is no longer what it was is joined as far as it goes."""
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and not isinstance(metadata.get("comm_lopt"), str):
        metadata["comm_lopt"] = json.dumps(metadata.get("comm_lopt"))
    text = json_bytes(header)
    size = len(text) if rng.random() < 0.95 else rng.choice([0, 1, 2**31, 2**63, 2**64 - 1])
    return struct.pack("<Q", size) + text + values


def theta_files(folder, count, rng):
    """Thetas of every class with bytes or header changed."""
    whole = []
    for name in ("LOptA", "LAggA", "LOpt", "LAgg"):
        learned_opt = comm_lopt.OPTIMIZERS[name].make(hidden_size=3)
        theta = learned_opt.init(jax.random.PRNGKey(0))
        family = {"task": "t", "local_optimizer": "local_sgd", "local_learning_rate": [0.1, 1.0]}
        trained_on = {"task": "t", "num_workers": 8, "families": [family]}
        path = comm_lopt.save_theta(folder / name, learned_opt, theta, trained_on)
        whole.append(path.read_bytes())
    parts = [split_safetensors(content) for content in whole]
    for _ in range(count):
        if rng.random() < 0.25:
            yield mutated_bytes(rng.choice(whole), rng)
            continue
        header, values = rng.choice(parts)
        if rng.random() < 0.02:
            metadata = {**header["__metadata__"], "comm_lopt": nested(rng).decode()}
            changed = {**header, "__metadata__": metadata}
        elif rng.random() < 0.6:
            ours = mutated_json(header["__metadata__"]["comm_lopt"], rng)
            changed = {**header, "__metadata__": {"comm_lopt": ours}}
        else:
            changed = mutated_json(header, rng)
        yield joined_safetensors(changed, values, rng)


def idx_files(count, rng):
    """IDX files with bytes, sizes or packing changed."""
    values = bytes(range(24))
    for _ in range(count):
        rank = rng.choice([1, 2, 3, 3, 3, 0, 8, 9, 255])
        most = 2**32 - 1
        sizes = rng.choice([[2, 3, 4], [24], [0], [0, most, most], [most], [rng.randrange(most)]])
        content = struct.pack(">BBBB", 0, 0, rng.choice([8, 8, 8, 9, 13]), rank)
        content += b"".join(struct.pack(">I", size) for size in (sizes * 9)[:rank]) + values
        if rng.random() < 0.5:
            content = mutated_bytes(content, rng)
        packed = gzip.compress(content + bytes(rng.choice([0, 0, 10_000, 10_000_000])), 1)
        yield packed if rng.random() < 0.5 else mutated_bytes(packed, rng)


def idx_of_both_kinds(path):
    """Reads a file as a packed one, and what it unpacks to, or itself, as a plain one."""
    plain = path.with_suffix(".idx")
    try:
        with gzip.open(path) as file:
            plain.write_bytes(file.read(1000))
    except (OSError, EOFError, zlib.error):
        plain.write_bytes(path.read_bytes())
    with contextlib.suppress(DataError):
        read_idx(plain)
    read_idx(path)


def npz_files(count, rng):
    """Archives with bytes, array headers or directory changed."""
    for _ in range(count):
        file = io.BytesIO()
        method = rng.choice([0, 0, 8, 8, 8, 8, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        with zipfile.ZipFile(file, "w", method) as archive:
            for name in rng.choice([["image", "label"], ["image"], ["../x"], []]):
                archive.writestr(f"{name}.npy", npy_bytes(rng))
        content = file.getvalue()
        yield content if rng.random() < 0.4 else mutated_bytes(content, rng)


def npy_bytes(rng):
    header = {
        "descr": rng.choice(["|u1", "|u1", "<i4", "|O", "|V0", "<U9999999", "|S1000000000", "?"]),
        "fortran_order": rng.choice([False, True]),
        "shape": rng.choice([(6,), (2, 3), (), (2**62,), (2**40, 2**40), (-1,), (0, 2**40)]),
    }
    array = io.BytesIO()
    write = rng.choice([np.lib.format.write_array_header_1_0, np.lib.format.write_array_header_2_0])
    write(array, header)
    content = array.getvalue() + bytes(rng.choice([6, 24, 0, 1_000_000]))
    return content if rng.random() < 0.5 else mutated_bytes(content, rng)


def prepared_folder(folder):
    """A prepared data set, whose files are then changed one at a time."""
    place = folder / "prepared"
    with writing_prepared(place) as writer:
        for split in ("train", "test"):
            writer.write(split, iter([{"image": np.ones((6, 2), np.uint8)}]))
        writer.finish({"tfds": "x:1.0.0"})
    (folder / "x.image.npy").write_bytes((place / "train.image.npy").read_bytes())
    return place


def prepared_headers(folder, count, rng):
    """Headers of prepared data with bytes or values changed, or that lead out of the folder."""
    whole = json.loads((folder / "dataset.json").read_bytes())
    for _ in range(count):
        match rng.randrange(20):
            case 0:
                yield nested(rng)
            case 1:
                yield json_bytes({**whole, "splits": {"../x": whole["splits"]["train"]}})
            case 2 | 3 | 4:
                yield mutated_bytes(json_bytes(whole), rng)
            case _:
                yield json_bytes(mutated_json(whole, rng))


def prepared_arrays(folder, count, rng):
    """Arrays of prepared data with bytes or header changed, and files of other kinds."""
    whole = (folder / "train.image.npy").read_bytes()
    archive = io.BytesIO()
    np.savez(archive, image=np.ones(3))
    for _ in range(count):
        kinds = [whole, mutated_bytes(whole, rng), npy_bytes(rng), archive.getvalue()]
        yield rng.choice(kinds)


def text_files(count, rng):
    """Text with bytes changed."""
    for _ in range(count):
        content = "text, in every language: äß漢字🙂\n".encode() * 3
        yield content if rng.random() < 0.1 else mutated_bytes(content, rng)


def sweep_files(count, rng):
    """Sweeps with bytes or values changed."""
    entry = small_entry()
    names = ("optimizer", "local_optimizer", "sends", "workers", "learned", "hparams", "sources")
    whole = {
        "format_version": 2,
        "problem": small_results({})["problem"],
        "label": "SlowMo",
        "method": {**{n: entry[n] for n in names}, "hparams": {"momentum": 0.9}, "theta": None},
        "seeds": [0, 1],
        "best": {"momentum": 0.9},
        "points": [{"hparams": {"momentum": 0.9}, "final_train_loss": 0.5}],
    }
    for _ in range(count):
        match rng.randrange(20):
            case 0:
                yield nested(rng)
            case 1 | 2:
                yield mutated_bytes(json_bytes(whole), rng)
            case _:
                yield json_bytes(mutated_json(whole, rng))


def tuned(path):
    """Reads a sweep, and builds its method as `meta-test --tuned` does."""
    saved = read_json(path, check_sweep)
    method = saved["method"]
    try:
        made = meta_test.hand_designed(method["optimizer"], saved["label"])
        made.with_values("sweep", **method["hparams"]).with_values("sweep", **saved["best"])
    except ValueError as error:
        raise meta_test.ResultsError(str(error)) from error


def whole_results():
    diverged = small_entry([2.0, 1.0, 0.5], diverged=[2])
    diverged["heldout"]["bits_per_byte"] = 2.5
    return small_results({"SlowMo": diverged, "LOptA": small_entry(learned=True)})


def results_files(count, rng):
    """Results with bytes or values changed."""
    whole = whole_results()
    for _ in range(count):
        match rng.randrange(20):
            case 0:
                yield nested(rng)
            case 1 | 2 | 3:
                yield mutated_bytes(json_bytes(whole), rng)
            case _:
                yield json_bytes(mutated_json(whole, rng))


def reported(path):
    """Reads results, and reports what was read as `meta-test` does; every tenth with a figure."""
    results = meta_test.read_results(path)
    comm_lopt.markdown_table(results)
    if zlib.crc32(path.read_bytes()) % 10 == 0:
        comm_lopt.loss_figure(results).savefig(io.BytesIO(), dpi=20)


def of_folder(path):
    return read_prepared(path.parent)


KINDS = {
    "theta": (comm_lopt.load_theta, comm_lopt.ThetaError, "theta.safetensors"),
    "idx": (idx_of_both_kinds, DataError, "images.gz"),
    "npz": (read_npz, DataError, "data.npz"),
    "prepared header": (of_folder, DataError, "prepared/dataset.json"),
    "prepared array": (of_folder, DataError, "prepared/train.image.npy"),
    "text": (read_text, DataError, "text.txt"),
    "results": (reported, meta_test.ResultsError, "results.json"),
    "sweep": (tuned, meta_test.ResultsError, "sweep.json"),
}


def fuzzed(kind, folder, count, seed):
    rng = random.Random(seed)
    files = {
        "theta": lambda: theta_files(folder, count, rng),
        "idx": lambda: idx_files(count, rng),
        "npz": lambda: npz_files(count, rng),
        "prepared header": lambda: prepared_headers(prepared_folder(folder), count, rng),
        "prepared array": lambda: prepared_arrays(prepared_folder(folder), count, rng),
        "text": lambda: text_files(count, rng),
        "sweep": lambda: sweep_files(count, rng),
        "results": lambda: results_files(count, rng),
    }[kind]()
    read, error, name = KINDS[kind]
    found = fuzz(folder / name, files, read, error)
    assert found.files == count
    # A fuzzer whose files are all refused, or all accepted, looks at nothing.
    assert count // 20 < found.refused < count
    assert found.slowest_seconds < MOST_SECONDS
    assert found.memory_growth_mb < MOST_MEMORY_MB
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_file_is_read_or_refused(kind, tmp_path):
    fuzzed(kind, tmp_path, QUICK, seed=0)


@pytest.mark.reliability
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_many_hostile_files_are_read_or_refused(kind, tmp_path, record_figure):
    record_figure(f"{kind}", fuzzed(kind, tmp_path, LONG, seed=1))
