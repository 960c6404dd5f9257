"""Small pieces that any stage needs: errors, atomic files, digests, locks, devices, batches.

Imports nothing else of arrag. Start with :mod:`arrag.utils.errors` (what a user is told),
:mod:`arrag.utils.files` and :mod:`arrag.utils.outputs` (how files are read and written) and
:mod:`arrag.utils.shards` (how a long stage survives a kill).
"""

from importlib import import_module

_PUBLIC = {
    "ArragError": "arrag.utils.errors",
    "ConfigError": "arrag.utils.errors",
    "FormatError": "arrag.utils.errors",
    "JobPart": "arrag.utils.shards",
    "MismatchError": "arrag.utils.errors",
    "MissingError": "arrag.utils.errors",
    "OutputError": "arrag.utils.errors",
    "Registry": "arrag.utils.registry",
    "ResourceError": "arrag.utils.errors",
    "RunLock": "arrag.utils.locks",
    "ShardWriter": "arrag.utils.shards",
    "UnknownNameError": "arrag.utils.errors",
    "UsageError": "arrag.utils.errors",
    "atomic_path": "arrag.utils.outputs",
    "batched_by_memory": "arrag.utils.batching",
    "default_device": "arrag.utils.device",
    "digest_of": "arrag.utils.hashing",
    "output_lock": "arrag.utils.locks",
    "read_json": "arrag.utils.files",
    "read_model": "arrag.utils.files",
    "read_tensors": "arrag.utils.checkpoint",
    "sha256_file": "arrag.utils.hashing",
    "sha256_json": "arrag.utils.hashing",
    "tree_digest": "arrag.utils.hashing",
    "write_json": "arrag.utils.files",
    "write_text": "arrag.utils.files",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
