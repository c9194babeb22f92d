"""`manifest.json`: writing it, and reading it strictly.

An unknown key, a missing key or a wrong type is an error, and a digest over the manifest's own content finds flipped
bytes. Knows nothing of the other files; what their sizes must be is checked by `Manifest`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from paging.checksum import FILE_DIGEST, ROW_CHECKSUM, file_digest
from paging.errors import TableFormatError
from paging.format import MANIFEST_FILE, AuxiliaryEntry, Manifest, ShardEntry
from paging.geometry import Segment, TableGeometry
from paging.header import FORMAT, VERSIONS, TensorEntry
from paging.layer_encoding import Encoding

_AGAIN = "copy or export the table again"
_OPTIONAL_INT = (int, type(None))

_MANIFEST_KEYS: dict[str, Any] = {
    "format": str,
    "version": int,
    "table_id": str,
    "fingerprint": str,
    "num_rows": int,
    "hidden_size": int,
    "num_layers": int,
    "vocab_size": int,
    "row_bytes": int,
    "row_stride": int,
    "row_checksum": str,
    "file_digest": str,
    "segments": list,
    "auxiliary": dict,
    "shards": list,
    "manifest_digest": str,
}
_SEGMENT_KEYS: dict[str, Any] = {
    "layer": int,
    "offset": int,
    "bytes": int,
    "encoding": str,
    "group_size": _OPTIONAL_INT,
    "rank": _OPTIONAL_INT,
}
_AUXILIARY_KEYS: dict[str, Any] = {"file": str, "bytes": int, "digest": str, "tensors": list}
_TENSOR_KEYS: dict[str, Any] = {"name": str, "dtype": str, "shape": list}
_SHARD_KEYS: dict[str, Any] = {"file": str, "first_row": int, "num_rows": int, "bytes": int, "digest": str}


def manifest_text(manifest: Manifest) -> str:
    """Return the text of `manifest.json`."""
    geometry, auxiliary = manifest.geometry, manifest.auxiliary
    values: dict[str, Any] = {
        "format": FORMAT,
        "version": geometry.format_version,
        "table_id": manifest.table_id,
        "fingerprint": manifest.fingerprint,
        "num_rows": manifest.num_rows,
        "hidden_size": geometry.hidden_size,
        "num_layers": geometry.num_layers,
        "vocab_size": geometry.vocab_size,
        "row_bytes": geometry.row_bytes,
        "row_stride": geometry.row_stride,
        "row_checksum": ROW_CHECKSUM,
        "file_digest": FILE_DIGEST,
        "segments": [
            {
                "layer": segment.layer,
                "offset": segment.offset,
                "bytes": segment.num_bytes,
                "encoding": segment.encoding,
                "group_size": segment.group_size,
                "rank": segment.rank,
            }
            for segment in geometry.segments
        ],
        "auxiliary": {
            "file": auxiliary.file,
            "bytes": auxiliary.num_bytes,
            "digest": auxiliary.digest,
            "tensors": [
                {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
                for tensor in auxiliary.tensors
            ],
        },
        "shards": [
            {
                "file": shard.file,
                "first_row": shard.first_row,
                "num_rows": shard.num_rows,
                "bytes": shard.num_bytes,
                "digest": shard.digest,
            }
            for shard in manifest.shards
        ],
    }
    values["manifest_digest"] = manifest_digest(values)
    return json.dumps(values, indent=1) + "\n"


def parse_manifest(text: str, *, source: str = MANIFEST_FILE) -> Manifest:
    """Read the text of a manifest; everything wrong raises a one-line `TableFormatError` that names `source`."""
    try:
        return _parse(text)
    except TableFormatError as error:
        raise TableFormatError(f"{source}: {error}") from error


def load_manifest(directory: Path) -> Manifest:
    """Read `directory/manifest.json`."""
    path = directory / MANIFEST_FILE
    try:
        text = path.read_text(encoding="ascii")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TableFormatError(
            f"{directory} is no table, it has no {MANIFEST_FILE}; name a table's directory or export one there"
        ) from error
    except UnicodeDecodeError as error:
        raise TableFormatError(f"{path}: it is not ASCII text; {_AGAIN}") from error
    except OSError as error:
        raise TableFormatError(f"cannot read {path}: {error.strerror}") from error
    return parse_manifest(text, source=str(path))


def manifest_digest(values: Mapping[str, Any]) -> str:
    """Return the digest of a manifest's values: over JSON with sorted keys and no spaces, its own key left out."""
    content = {key: value for key, value in values.items() if key != "manifest_digest"}
    return file_digest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii"))


def _parse(text: str) -> Manifest:
    try:
        values = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        digest = manifest_digest(values) if isinstance(values, dict) else ""
    except (ValueError, RecursionError) as error:
        raise TableFormatError(f"it is not JSON ({error}); {_AGAIN}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise TableFormatError(f"it is not the manifest of a table, whose format is {FORMAT!r}; name a table")
    if values.get("version") not in VERSIONS or type(values["version"]) is not int:
        raise TableFormatError(
            f"version {values.get('version')!r:.20} of the format is unknown, this release reads "
            f"{' and '.join(map(str, VERSIONS))}; update tolbooth or export the table again"
        )
    if values.get("manifest_digest") != digest:
        raise TableFormatError(f"its content does not match its own digest, it was changed or damaged; {_AGAIN}")
    return _from_values(values)


def _from_values(values: dict[str, Any]) -> Manifest:
    _check_keys(values, _MANIFEST_KEYS, "the manifest")
    for key, known in (("row_checksum", ROW_CHECKSUM), ("file_digest", FILE_DIGEST)):
        if values[key] != known:
            raise TableFormatError(f"{key} is {values[key]!r:.50}; this release knows {known}")
    auxiliary = values["auxiliary"]
    _check_keys(auxiliary, _AUXILIARY_KEYS, "auxiliary")
    geometry = TableGeometry(
        hidden_size=values["hidden_size"],
        num_layers=values["num_layers"],
        vocab_size=values["vocab_size"],
        segments=tuple(map(_segment, values["segments"])),
    )
    if values["version"] != geometry.format_version:
        raise TableFormatError(
            f"version is {values['version']}; a table of {geometry.label} is one of version {geometry.format_version}"
        )
    for key, computed in (("row_bytes", geometry.row_bytes), ("row_stride", geometry.row_stride)):
        if values[key] != computed:
            raise TableFormatError(f"{key} is {values[key]}; the segments give {computed}")
    return Manifest(
        table_id=values["table_id"],
        fingerprint=values["fingerprint"],
        num_rows=values["num_rows"],
        geometry=geometry,
        auxiliary=AuxiliaryEntry(
            file=auxiliary["file"],
            num_bytes=auxiliary["bytes"],
            digest=auxiliary["digest"],
            tensors=tuple(map(_tensor, auxiliary["tensors"])),
        ),
        shards=tuple(map(_shard, values["shards"])),
    )


def _segment(values: Any) -> Segment:
    _check_keys(values, _SEGMENT_KEYS, "a segment")
    encoding = values["encoding"]
    if encoding not in set(Encoding):
        raise TableFormatError(f"encoding {encoding!r:.50} is unknown; this release reads {', '.join(Encoding)}")
    return Segment(
        layer=values["layer"],
        offset=values["offset"],
        num_bytes=values["bytes"],
        encoding=Encoding(encoding),
        group_size=values["group_size"],
        rank=values["rank"],
    )


def _tensor(values: Any) -> TensorEntry:
    _check_keys(values, _TENSOR_KEYS, "an auxiliary tensor")
    return TensorEntry(name=values["name"], dtype=values["dtype"], shape=tuple(values["shape"]))


def _shard(values: Any) -> ShardEntry:
    _check_keys(values, _SHARD_KEYS, "a shard")
    return ShardEntry(
        file=values["file"],
        first_row=values["first_row"],
        num_rows=values["num_rows"],
        num_bytes=values["bytes"],
        digest=values["digest"],
    )


def _check_keys(values: Any, keys: Mapping[str, Any], where: str) -> None:
    """Raise unless `values` is an object with exactly `keys`, each of its type; a boolean is no integer."""
    if not isinstance(values, dict):
        raise TableFormatError(f"{where} is not an object")
    if unknown := sorted(values.keys() - keys.keys()):
        raise TableFormatError(f"{where} has unknown keys: {unknown!r:.200}")
    if missing := sorted(keys.keys() - values.keys()):
        raise TableFormatError(f"{where} lacks keys: {', '.join(missing)}")
    for key, kind in keys.items():
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise TableFormatError(f"{key} of {where} has a wrong type: {json.dumps(values[key]):.50}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is there twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
