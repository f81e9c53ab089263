"""How the tests' programs are compiled: soon, and each once for all processes of a run.

Most of their time would be XLA's. With JAX_DISABLE_MOST_OPTIMIZATIONS=0 in the environment they
are compiled as users' programs are.
"""

import importlib.util
import mmap
import os
import pathlib
import shutil
import tempfile

import jax
import pytest

# LLVM gets the operations that XLA fused one by one, in one module: half of the time. An XLA that
# does not know a flag ends the process.
FLAGS = ("xla_cpu_use_fusion_emitters=false", "xla_cpu_parallel_codegen_split_count=1")
CACHE = "JAX_COMPILATION_CACHE_DIR"


def set_up(config: pytest.Config) -> None:
    """Tells JAX here, and through the environment in all processes that are started from here."""
    if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "0":
        return
    if CACHE not in os.environ:
        os.environ[CACHE] = tempfile.mkdtemp(prefix="comm_lopt_compiled_")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(CACHE), ignore_errors=True))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        known = [f"--{flag}" for flag in FLAGS if _xla_knows(flag.partition("=")[0])]
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known]).strip()
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _xla_knows(flag: str) -> bool:
    """Whether the name stands in jaxlib's library by itself, as a string of C.

    A flag that is gone is still named, beside others, where old options are reserved.
    """
    spec = importlib.util.find_spec("jaxlib")
    assert spec is not None and spec.origin is not None
    libraries = pathlib.Path(spec.origin).parent.glob("*.so")
    library = max(libraries, key=lambda path: path.stat().st_size)
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(b"\0" + flag.encode() + b"\0") >= 0
