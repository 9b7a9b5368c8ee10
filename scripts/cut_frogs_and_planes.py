"""Cut *frogs and planes* out of CIFAR-10: python scripts/cut_frogs_and_planes.py CIFAR_PARQUET_FOLDER

Per class the first 500 training and the first 100 test pictures of CIFAR-10, in its own order,
without exact copies, their stored bytes unchanged.
"""

import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CLASSES = {0: "airplane", 6: "frog"}  # CIFAR-10's numbers
TAKE = {"train": 500, "test": 100}
OUT = Path(__file__).parent.parent / "src/poisonfrogs/bundled/frogs_and_planes"


def cut(source: Path, split: str) -> pa.Table:
    table = pq.read_table(source / f"{split}-00000-of-00001.parquet", columns=["img", "label"])
    seen: set[str] = set()
    taken: dict[int, list[dict[str, object]]] = {number: [] for number in CLASSES}
    for picture, label in zip(table["img"].to_pylist(), table["label"].to_pylist(), strict=True):
        content = hashlib.sha256(picture["bytes"]).hexdigest()
        if label in CLASSES and content not in seen and len(taken[label]) < TAKE[split]:
            seen.add(content)
            taken[label].append({"bytes": picture["bytes"], "path": None})
    rows = [(picture, new) for new, number in enumerate(CLASSES) for picture in taken[number]]
    names = list(CLASSES.values())
    features = {"img": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema(
        [("img", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    return pa.Table.from_arrays(
        [pa.array([picture for picture, _ in rows], schema.field(0).type), pa.array([label for _, label in rows])],
        schema=schema,
    )


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for split in TAKE:
        pq.write_table(cut(Path(sys.argv[1]), split), OUT / f"{split}-00000-of-00001.parquet", compression="zstd")


if __name__ == "__main__":
    main()
