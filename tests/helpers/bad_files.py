"""Bad files of every kind that is read, made anew each time: none of them lies in the repository.

``images()``, ``tars()`` and the others give {name: bytes}; the name's end is that of the kind. All
are small: a bomb is one by what it says of itself.
"""

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

MARK = "code-ran"
"""A pickle that runs leaves a file of this name in the working folder."""
HARMFUL = (
    "<script>alert(1)</script>",
    "'; touch x; '",
    "$(touch x)",
    "=cmd|' /C calc'!A0",
    "|a|b|",
)
PIXEL = zlib.compress(bytes(4))  # of one by one


class Code:
    """Unpickled, it writes a file."""

    def __reduce__(self):
        return (open, (MARK, "w"))


def saved(format="PNG", size=(16, 16), **options):
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)
    return encoded(Image.fromarray(pixels), format, **options)


def encoded(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=1, height=1, depth=8, color=2, data=PIXEL, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cut(data, shares=(0.02, 0.1, 0.3, 0.5, 0.8, 0.95)):
    return {f"cut-{round(100 * share)}": data[: int(len(data) * share)] for share in shares}


def images():
    whole = saved()
    found = {f"{name}.png": data for name, data in cut(whole).items()}
    for format, end in (("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp"), ("GIF", "png")):
        data = saved(format)
        found |= {f"{name}-{format}.{end}": part for name, part in cut(data, (0.1, 0.5)).items()}
    swapped = bytearray(whole)
    swapped[40] ^= 0xFF
    return found | {
        "empty.png": b"",
        "text.png": b"this is no image\n" * 20,
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n%%EOF\n",
        "pickle.png": pickle.dumps(Code()),
        "zeros.png": bytes(4096),
        "bad-checksum.png": bytes(swapped),
        "bomb.png": png(60_000, 60_000),
        "huge.png": png(2**31 - 1, 2**31 - 1),
        "strip.png": saved(size=(60_000, 1)),
        "bad-depth.png": png(depth=7),
        "text-bomb.png": png(extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24)))),
        "text-broken.png": png(extra=chunk(b"zTXt", b"a\0\0no zlib")),
        "not-packed.png": png(data=b"no zlib"),
        "length-lies.png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR",
        "bomb.bmp": b"BM" + struct.pack("<4I2i2H6I", 99, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6),
        "exif-broken.jpg": saved("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "markers.jpg": b"\xff\xd8" + b"\xff\xc0\x00\x02" * 50,
    }  # fmt: skip


def packed(*members, mode="w", format=tarfile.PAX_FORMAT):
    """A tar of (name, data, {field: value of its TarInfo})."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format) as tar:
        for name, data, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(**fields):
    """The 512 bytes of one header, its fields overwritten and its checksum right again."""
    block = bytearray(packed(("x.png", b"", {}))[:512])
    places = {"size": (124, 136), "type": (156, 157), "mode": (100, 108), "name": (0, 100)}
    for field, value in fields.items():
        first, last = places[field]
        block[first:last] = value.ljust(last - first, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tars():
    one = saved()
    whole = packed(*[(f"{i}.png", one, {}) for i in range(3)])
    damaged = bytearray(whole)
    damaged[1024 + 200] ^= 0xFF
    link = {"size": 0, "linkname": "/etc/passwd"}
    gz = packed(("x.png", one, {}), mode="w:gz")
    big = packed(("x.png", bytes(2**20), {}), mode="w:gz")
    found = {f"{name}.tar": data for name, data in cut(whole).items()}
    found |= {f"{name}-gz.tar.gz": data for name, data in cut(gz, (0.2, 0.6, 0.9)).items()}
    return found | {
        "empty.tar": b"",
        "text.tar": b"this is no tar\n" * 100,
        "no-images.tar": packed(("a.txt", b"x", {})),
        "up.tar": packed(("../up.png", one, {})),
        "absolute.tar": packed(("/tmp/absolute.png", one, {})),
        "link.tar": packed(("x.png", b"", {"type": tarfile.SYMTYPE, **link})),
        "hard-link.tar": packed(("x.png", b"", {"type": tarfile.LNKTYPE, **link})),
        "device.tar": packed(("x.png", b"", {"type": tarfile.CHRTYPE, "devmajor": 1})),
        "twice.tar": packed(("x.png", one, {}), ("x.png", one, {})),
        "checksum.tar": bytes(damaged),
        "size-lies.tar": header(size=b"77777777777") + bytes(1024),
        "size-huge.tar": header(size=b"\x80" + bytes(2) + b"\xff" * 9) + bytes(1024),
        "size-negative.tar": header(size=b"\xff" * 11 + b"\x00") * 2 + bytes(1024),
        "sparse.tar": header(type=b"S", size=b"0000001") + bytes(1536),
        "name-no-text.tar": header(name=b"\xff\xfe\xe9.png") + bytes(1024),
        "name-controls.tar": packed(("\x1b[31m\x07\n.png", b"x", {})),
        "pax-negative.tar": packed(("x.png", one, {"pax_headers": {"size": "-9999"}})),
        "pax-sparse-huge.tar": packed(
            ("x.png", one, {"pax_headers": {
                "GNU.sparse.major": "0", "GNU.sparse.map": "0,1", "GNU.sparse.size": "9" * 18
            }})
        ),
        "bad-image.tar": packed(("x.png", b"no image", {})),
        "bomb.tar.gz": big[: len(big) // 2],
        "xz.tar": b"\xfd7zXZ\0" + bytes(50),
    }  # fmt: skip


def zipped(members, **info):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for field, value in info.items():
                setattr(entry, field, value)
            archive.writestr(entry, data)
    return out.getvalue()


def zips():
    whole = zipped({"a/b.png": saved(), "a/c.png": saved()})
    found = {f"{name}.zip": data for name, data in cut(whole).items()}
    at = whole.index(b"PK\x01\x02")  # the list of members: flags at 8, unpacked size at 24
    locked = whole[:6] + b"\x01\0" + whole[8 : at + 8] + b"\x01\0" + whole[at + 10 :]
    huge = whole[: at + 24] + struct.pack("<I", 2**32 - 2) + whole[at + 28 :]
    damaged = bytearray(whole)
    damaged[60] ^= 0xFF
    return found | {
        "empty.zip": b"",
        "up.zip": zipped({"../up.png": b"x"}),
        "up-inside.zip": zipped({"up-inside/../../up.png": b"x"}),
        "absolute.zip": zipped({"/tmp/absolute.png": b"x"}),
        "windows.zip": zipped({"..\\up.png": b"x"}),
        "link.zip": zipped({"x.png": b"/etc/passwd"}, external_attr=0o120777 << 16),
        "file-and-folder.zip": zipped({"a": b"x", "a/b": b"y"}),
        "long-name.zip": zipped({"x" * 300: b"x"}),
        "locked.zip": locked,
        "bomb.zip": huge,
        "damaged.zip": bytes(damaged),
        "in-use.zip": zipped({"in-use/a.png": b"changed"}),
    }


def npy(array=None, text=None, version=b"\x01\0"):
    """A .npy file, or one whose header says ``text``."""
    if text is None:
        out = io.BytesIO()
        np.save(out, array, allow_pickle=True)
        return out.getvalue()
    line = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(line)) + line + bytes(64)


def arrays():
    """Bad .npy files; an .npz that holds one is as bad."""
    whole = npy(np.zeros((4, 3), np.float32))
    says = "{{'descr': '{}', 'fortran_order': False, 'shape': {}}}".format
    return {f"{name}.npy": data for name, data in cut(whole, (0.02, 0.3, 0.9, 0.98)).items()} | {
        "empty.npy": b"",
        "text.npy": b"no numbers",
        "code.npy": npy(np.array([Code()], dtype=object)),
        "shape-huge.npy": npy(text=says("<f4", (10**12, 10**6))),
        "shape-negative.npy": npy(text=says("<f4", (-1, 3))),
        "type-unknown.npy": npy(text=says("<q9", (2, 2))),
        "header-open.npy": npy(text="{'descr': ("),
        "header-deep.npy": npy(text="(" * 5000),
        "header-code.npy": npy(text=f"open('{MARK}', 'w')"),
        "version.npy": npy(text=says("<f4", (2, 2)), version=b"\x09\0"),
        "texts.npy": npy(np.array([["a", "b"]])),
        "complex.npy": npy(np.zeros((4, 3), complex)),
        "nothing.npy": npy(np.zeros((0, 3))),
        "nan.npy": npy(np.full((5, 3), np.nan)),
        "dates.npy": npy(np.zeros((4, 3), "M8[s]")),
        "fields.npy": npy(np.zeros(4, [("a", "f4")])),
    }


def statistics():
    """Bad .npz files: archives of bad arrays, and arrays that do not belong together."""
    mu, sigma = npy(np.zeros(3)), npy(np.eye(3))
    about = {
        "no-names": {},
        "no-sigma": {"mu.npy": mu},
        "shapes": {"mu.npy": mu, "sigma.npy": npy(np.eye(4))},
        "text": {"mu.npy": npy(np.array(["a"])), "sigma.npy": sigma},
        "n-text": {"mu.npy": mu, "sigma.npy": sigma, "n.npy": npy(np.array("many"))},
        "n-negative": {"mu.npy": mu, "sigma.npy": sigma, "n.npy": npy(np.array(-5))},
        "n-list": {"mu.npy": mu, "sigma.npy": sigma, "n.npy": npy(np.array([1, 2]))},
        "nan": {"mu.npy": mu, "sigma.npy": npy(np.full((3, 3), np.nan))},
        "negative": {"mu.npy": mu, "sigma.npy": npy(-np.eye(3))},
        "meta-list": {"feats.npy": npy(np.eye(3)), "meta.npy": npy(np.array("[1]"))},
        "meta-deep": {"feats.npy": npy(np.eye(3)), "meta.npy": npy(np.array("[" * 9999))},
        "meta-types": {"feats.npy": npy(np.eye(3)), "meta.npy": npy(np.array('{"images": 3}'))},
        "no-npy": {"feats.npy": b"no numbers"},
        "up": {"../feats.npy": npy(np.eye(3))},
    }
    found = {f"{name}.npz": zipped(members) for name, members in about.items()}
    for name in ("code", "shape-huge", "header-open", "header-deep", "complex", "texts"):
        bad = arrays()[f"{name}.npy"]
        found[f"of-{name}.npz"] = zipped({"feats.npy": bad})
        found[f"sigma-{name}.npz"] = zipped({"mu.npy": mu, "sigma.npy": bad})
    found |= {f"{n}.npz": d for n, d in cut(zipped({"feats.npy": npy(np.eye(9))})).items()}
    return found | {"one-array.npz": npy(np.eye(3)), "pickle.npz": pickle.dumps(Code())}


def safetensors():
    def of(header, data=b"", length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
        return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}

    whole = of({"a": tensor()}, bytes(8))
    found = {f"{name}.safetensors": data for name, data in cut(whole, (0.05, 0.5, 0.95)).items()}
    about = {
        "empty": b"",
        "text": b"no tensors at all, only text",
        "length-lies": of({"a": tensor()}, bytes(8), length=2**62),
        "no-json": of(b"{'a': 1}", bytes(8)),
        "deep": of(b"[" * 9999, bytes(8)),
        "list": of([1, 2], bytes(8)),
        "type": of({"a": tensor("X99")}, bytes(8)),
        "shape": of({"a": tensor(shape=(99,))}, bytes(8)),
        "shape-huge": of({"a": tensor(shape=(2**62, 4))}, bytes(8)),
        "offsets": of({"a": tensor(offsets=(0, 999))}, bytes(8)),
        "overlap": of({"a": tensor(), "b": tensor()}, bytes(8)),
        "hole": of({"a": tensor(offsets=(8, 16))}, bytes(16)),
        "twice": of(b'{"a": {}, "a": {}}', bytes(8)),
        "other-names": whole,
        "metadata": of({"__metadata__": {"faid": "[" * 9999}, "a": tensor()}, bytes(8)),
    }
    return found | {f"{name}.safetensors": data for name, data in about.items()}


def weights():
    """Bad PyTorch files."""
    import torch

    def of(value):
        out = io.BytesIO()
        torch.save(value, out)
        return out.getvalue()

    whole = of({"a": torch.zeros(2)})
    found = {f"{name}.bin": data for name, data in cut(whole, (0.1, 0.5, 0.9)).items()}
    about = {
        "empty": b"",
        "text": b"no weights",
        "code": pickle.dumps(Code()),
        "code-inside": of({"model": Code()}),
        "list": of([torch.zeros(2)]),
        "names": of({1: torch.zeros(2)}),
        "values": of({"a": "text", "model": {"b": "text"}}),
        "wrapped-list": of({"model": [1], "state_dict": [1]}),
        "other-names": whole,
        "zip": zipped({"archive/data.pkl": pickle.dumps(Code())}),
    }
    return found | {f"{name}.bin": data for name, data in about.items()}
