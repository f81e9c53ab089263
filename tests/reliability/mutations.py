"""Damaged and hostile files: bytes changed at random, and JSON changed inside its structure."""

import copy
import dataclasses
import json
import random
import resource
import time

WEIRD = [
    None, True, -1, 0, 1, 2, 0.5, 1e308, float("inf"), float("nan"), 2**31, 2**63, 2**64, 10**30,
    "", "x" * 1000, "$x", "F64", "BF16", "F8_E4M3", "LOpt", "LAggA", [], {}, [[[[[]]]]], [0, 2**62],
    [-1], ["a"], {"a": 1}, [0.1] * 1000, "\u0000", "\ud800",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fuzzed:
    """What came of reading many files: how many, how many of them were refused, at what cost.

    Seconds are of CPU time, which another process on the machine does not lengthen.
    """

    files: int
    refused: int
    slowest_seconds: float
    memory_growth_mb: float

    def __str__(self):
        return (
            f"{self.files} files, {self.refused} refused, slowest {self.slowest_seconds:.2f} s of "
            f"CPU time, memory grew by {self.memory_growth_mb:.0f} MB"
        )


def fuzz(path, files, read, error):
    """Writes each file's content to `path` and reads it; only `error` may be raised."""
    number = refused = 0
    slowest = 0.0
    before = None
    for content in files:
        path.write_bytes(content)
        begin = time.process_time()
        try:
            read(path)
        except error:
            refused += 1
        except BaseException as other:
            raise AssertionError(f"{content[:2000]!r} raised {other!r}") from other
        slowest = max(slowest, time.process_time() - begin)
        number += 1
        # After the first file: what is loaded and compiled once is not the files' doing.
        before = before or _peak_mb()
    return Fuzzed(number, refused, slowest, _peak_mb() - before)


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mutated_bytes(content, rng):
    """The content with some of it changed, cut, doubled or replaced."""
    content = bytearray(content)
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(400))
        case 1:
            del content[rng.randrange(len(content) + 1) :]
        case 2:
            content += rng.randbytes(rng.randrange(1, 100))
        case 3:
            start = rng.randrange(len(content))
            del content[start : start + rng.randrange(1, 50)]
        case _:
            for _ in range(rng.choice([1, 1, 2, 8])):
                position = rng.randrange(len(content))
                content[position] = rng.choice([0, 255, 127, rng.randrange(256)])
    return bytes(content)


def mutated_json(value, rng: random.Random):
    """A copy of the value in which one to three places are changed, renamed or removed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(rng.choice(WEIRD))
        container, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[rng.choice(["", "x", "y" * 300, "split"])] = container.pop(key)
            case 2 if isinstance(container[key], (int, float)):
                container[key] = container[key] * rng.choice([-1, 2, 10, 1e6, 0.1]) + 1
            case _:
                container[key] = copy.deepcopy(rng.choice(WEIRD))
    return value


def _places(value):
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(pairs):
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)


def json_bytes(value):
    """JSON as Python reads it, with NaN, Infinity and lone surrogates."""
    return json.dumps(value).encode()


def nested(rng):
    """JSON that is nested deeply."""
    depth = rng.choice([10, 500, 5000, 100_000])
    return rng.choice([b"[", b'{"a":', b"[1,"]) * depth
