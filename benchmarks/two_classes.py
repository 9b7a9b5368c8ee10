"""Two classes of CIFAR-10, and fewer pictures of them: python benchmarks/two_classes.py SHARED/data/cifar10 OUT

    python benchmarks/two_classes.py DATA OUT [--classes bird dog] [--n 2500]

The first `n` training pictures and all test pictures of each class, one class after the other, their stored bytes
unchanged, as a folder of parquet files for `poisonfrogs audit OUT`. DATA holds parquet files as the hub lays them out.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def cut(table: pa.Table, classes: list[str], n: int | None) -> pa.Table:
    """The rows of some classes, at most n of each; the classes are numbered anew."""
    described = json.loads(table.schema.metadata[b"huggingface"])
    names = described["info"]["features"]["label"]["names"]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise SystemExit(f"no such class: {', '.join(unknown)}; there are {', '.join(names)}")
    labels, numbers = table["label"].to_numpy(), [names.index(name) for name in classes]
    rows = np.concatenate([np.flatnonzero(labels == number)[:n] for number in numbers])
    described["info"]["features"]["label"]["names"] = classes
    renamed = pa.array([numbers.index(label) for label in labels[rows]], pa.int64())
    kept = table.take(rows).set_column(table.schema.get_field_index("label"), "label", renamed)
    return kept.replace_schema_metadata({"huggingface": json.dumps(described)})


def write_two_classes(data: Path, out: Path, classes: list[str], n: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for split, most in (("train", n), ("test", None)):
        table = pa.concat_tables(pq.read_table(file) for file in sorted(data.rglob(f"{split}-*.parquet")))
        pq.write_table(cut(table, classes, most), out / f"{split}-00000-of-00001.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bird", "dog"])
    parser.add_argument("--n", type=int, default=2500, help="training pictures of each class")
    given = parser.parse_args()
    write_two_classes(given.data, given.out, given.classes, given.n)


if __name__ == "__main__":
    main()
