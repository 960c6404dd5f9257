"""Bad tables, prompts, configurations and descriptions; see ``bad_files``."""

import io
import itertools
import json

import bad_files

PROMPT = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
RESULT = {
    "filename": "00000/samples/0000.png",
    "tag": "single_object",
    "prompt": "a dog",
    "correct": True,
    "reason": "",
    "metadata": json.dumps(PROMPT),
    "details": json.dumps({"dog": [[1, 1, 9, 9, 0.9]]}),
}
TYPES = (None, -1, 10**40, "../up", [None], {"a": 1})
"""A value of each kind that a field may hold instead of its own."""


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def texts(good):
    """What is bad of any text file that holds ``good``."""
    return bad_files.cut(good, (0.1, 0.6, 0.9)) | {
        "empty": b"",
        "blank": b"\n\n \n",
        "no-text": b"\xff\xfe\x00\xd8" + good,
        "latin": good.replace(b"dog", b"d\xf6g"),
        "nul": good.replace(b"dog", b"d\0g"),
        "html": b"<!doctype html><title>404</title>",
    }


def json_texts(good):
    """What is bad of any JSON, ``good`` being one value."""
    whole = json.dumps(good).encode()
    return texts(whole) | {
        "deep": b"[" * 10_000 + b"]" * 10_000,
        "digits": b'{"a": ' + b"9" * 5000 + b"}",
        "half-character": b'{"prompt": "\\ud83d", "a": "\\uD800"}',
        "nan": b'{"prompt": NaN, "a": -Infinity}',
        "twice": whole + whole,
        "list": b"[1, 2]",
    }


def json_lines(good):
    """JSON lines: the same, and every field of ``good`` missing or of another type."""
    found = json_texts(good) | {
        "long-line": json.dumps({**good, "prompt": "x" * 2_000_000}).encode(),
        "one-bad": lines(good) + b"{\n" + lines(good),
    }
    for field in good:
        found[f"without-{field}"] = lines({k: v for k, v in good.items() if k != field})
    for number, (field, value) in enumerate(itertools.product(good, TYPES)):
        if number % 7 < 3:  # every type at some field, three at each
            found[f"{field}-{number}"] = lines({**good, field: value})
    return found


def prompts():
    clause = {"class": "dog", "count": 1}
    clauses = {
        "count": {**clause, "count": 10**40},
        "color": {**clause, "color": ["red"]},
        "position": {**clause, "position": ["left of", 10**40]},
        "position-type": {**clause, "position": [[], {}]},
        "class": {**clause, "class": 3},
    }
    found = {f"clause-{n}": lines({**PROMPT, "include": [c]}) for n, c in clauses.items()}
    return named(json_lines(PROMPT) | found, "jsonl")


def results():
    detail = {
        "deep": "[" * 9999,
        "types": json.dumps({"dog": 3}),
        "nan": '{"dog": [[NaN, 1, 2, 3, NaN]]}',
        "huge": '{"dog": [[-1e308, 1, 1e308, 3, 1e999]]}',
        "upside-down": json.dumps({"dog": [[9, 9, 1, 1, 0.5]]}),
    }
    found = {f"details-{n}": lines({**RESULT, "details": text}) for n, text in detail.items()}
    names = {
        "number": "9" * 5000 + "/samples/0000.png",
        "far": "999999999/samples/0000.png",
        "up": "../../../../etc/passwd.png",
        "nul": "00000/samples/\0.png",
    }
    found |= {f"filename-{n}": lines({**RESULT, "filename": text}) for n, text in names.items()}
    found["metadata-deep"] = lines({**RESULT, "metadata": "[" * 9999})
    found["twice-named"] = lines(RESULT, RESULT)
    return named(json_lines(RESULT) | found, "jsonl")


HEAD = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
HEAD += "question_natural_language"
ROW = 'a,a dog,,1,0,entity,whole,"entity - whole (dog)",Is there a dog?'


def tables():
    """Question tables."""
    good = f"{HEAD}\n{ROW}\n".encode()
    rows = {
        "quote-open": ROW + '\n"b,a cat',
        "quote-inside": ROW.replace("Is", 'I"s'),
        "short": "a,a dog",
        "id-huge": ROW.replace(",1,0", f",{'9' * 5000},0"),
        "no-id": ROW.replace(",1,0", ",,0"),
        "parent-huge": ROW.replace(",1,0", f",1,{'9' * 5000}"),
        "parent-self": ROW.replace(",1,0", ",1,1"),
        "no-item": ROW[1:],
        "two-texts": ROW + "\n" + ROW.replace("a dog", "a cat"),
        "long-field": ROW.replace("Is", "x" * 200_000),
        "line-ends": ROW.replace(",", ",\r", 1),
        **{f"harm-{i}": f'"{h}"' + ROW[1:] for i, h in enumerate(bad_files.HARMFUL)},
    }
    found = {name: f"{HEAD}\n{text}\n".encode() for name, text in rows.items()}
    found["head-alone"] = HEAD.encode()
    found["head-twice"] = f"{HEAD},text\n{ROW},x\n".encode()
    found["other-head"] = b"a,b\n1,2\n"
    return named(texts(good) | found, "csv")


def configurations(good):
    """``good`` is the text of a configuration, which lies beside them as good.yaml."""
    tag = "seed: !!python/object/apply:os.system ['touch x']\n"
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
    )
    merges = "m0: &m0 {x: 1}\n" + "".join(
        f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 30)
    )
    about = {
        "tag-code": tag,
        "tag-name": "seed: !!python/name:os.system\n",
        "date": "seed: 2020-99-99\n",
        "aliases": bomb,
        "merges": merges,
        "alias-of-itself": "seed: &a [*a]\n",
        "merge-of-itself": "seed: &a {<<: *a}\n",
        "no-alias": "seed: *nobody\n",
        "twice": "seed: 0\nseed: 1\n",
        "deep": "seed: " + "[" * 10_000,
        "deep-blocks": "".join(f"{' ' * i}a:\n" for i in range(1500)),
        "tabs": "seed:\n\t- 0\n",
        "key-list": "[1, 2]: 3\n",
        "digits": f"seed: {'9' * 5000}\n",
        "digits-sixty": "seed: " + "59:" * 5000 + "1\n",
        "half-character": 'scale: "\\ud800"\n',
        "nul-written": 'base: "a\\0b.yaml"\n',
        "list": "- 1\n",
        "base-missing": "base: nobody.yaml\n",
        "base-itself": "base: base-itself.yaml\n",
    }
    found = {name: text.encode() for name, text in about.items()}
    fields = ("seed", "scale", "generators", "benchmarks", "methods", "assets", "grids")
    values = ("-1", "1.5", "many", "1e400", ".nan", "[]", "{}", "9" * 30, "null")
    for i, (field, value) in enumerate(zip(2 * fields, 2 * values, strict=False)):
        found[f"{field}-{i}"] = f"base: good.yaml\n{field}: {value}\n".encode()
    return named(texts(good.encode()) | found, "yaml")


def descriptions(good, every=1):
    """``good``, a mapping, without a field or with one of another type, at its top and below.

    every: of a long one, each field is given every so many of TYPES, the next field the next ones.
    """
    found = json_texts(good)
    for number, place in enumerate(places(good)):
        found[f"without-{'.'.join(map(str, place))}"] = changed(good, place, None, drop=True)
        for i, value in list(enumerate(TYPES))[number % every :: every]:
            found[f"{'.'.join(map(str, place))}-{i}"] = changed(good, place, value)
    return named(found, "json")


def places(value, at=()):
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(inside, dict | list):
            yield from places(inside, (*at, key))


def changed(good, place, value, drop=False):
    copy = json.loads(json.dumps(good))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    if drop:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return json.dumps(copy).encode()


def parquets():
    """Bad Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def of(about=None, **columns):
        table = pa.table(columns)
        if about is not None:
            table = table.replace_schema_metadata({"huggingface": about})
        out = io.BytesIO()
        pq.write_table(table, out)
        return out.getvalue()

    one = bad_files.saved()
    whole = of(image=[one] * 4)
    damaged = bytearray(whole)
    damaged[len(one) // 2] ^= 0xFF
    ways = ("../../up.png", "/etc/passwd", "nobody.png", "a\0b", "")
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    found = bad_files.cut(whole) | {
        "empty": b"",
        "text": b"no table",
        "length-lies": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "damaged": bytes(damaged),
        "no-images": of(a=[1, 2]),
        "no-rows": of(image=pa.array([], pa.binary())),
        "texts": of(image=["a", "b"]),
        "nothing": of(image=pa.array([None, None], pa.binary())),
        "bad-images": of(image=[b"no image", b""]),
        "about-deep": of("[" * 9999, image=[one]),
        "about-types": of('{"info": {"features": 3}}', image=[one]),
        "about-other": of('{"info": {"features": {"n": {"_type": "Image"}}}}', n=[1]),
        "number-of-struct": of(image=pa.array([{"bytes": 3}])),
        "paths": of(image=pa.array([{"bytes": None, "path": way} for way in ways], cell)),
    }
    return named(found, "parquet")


def named(files, end):
    return {f"{name}.{end}": data for name, data in files.items()}
