"""Croissant 1.1 metadata of training data: every file with its hash, and the list of documents as records.

Source: MLCommons, Croissant format specification 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

_CROISSANT_TERMS: Final = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
    "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
    "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
    "source", "subField", "transform",
)  # fmt: skip
CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _CROISSANT_TERMS},
}
"""The terms of the format, as its specification lists them."""
_FORMATS: Final = {".json": "application/json", ".jsonl": "application/jsonlines", ".parquet": "application/x-parquet",
                   ".md": "text/markdown", ".txt": "text/plain", ".gz": "application/gzip"}  # fmt: skip
_DOCUMENT: Final = {
    "id": "sc:Text", "sha256": "sc:Text", "bytes": "sc:Integer", "licence": "sc:Text", "source": "sc:Text",
    "split": "sc:Text", "tokens": "sc:Integer", "fim": "sc:Boolean",
}  # fmt: skip
"""Fields of a line of documents.jsonl (:class:`clearseek.data.manifest.DocumentEntry`)."""


def dataset(
    name: str, description: str, hashes: Mapping[str, str], *, licences: Iterable[str], citation: str, url: str = ".",
    creator: str = "", published: str = "",
) -> dict[str, Any]:  # fmt: skip
    """JSON-LD of a data set.

    Args:
        name: Its name.
        description: One sentence.
        hashes: Path -> SHA-256 in hex of its files; paths are relative to the metadata's folder or to `url`.
        licences: SPDX ids.
        citation: How to name these exact bytes.
        url: Where it is.
        creator: Who made it.
        published: Date, ``2026-11-24``; left out where it is not known.
    """
    out: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": description,
        "license": sorted(licences),
        "url": url,
        "version": "1.0.0",
        "citeAs": citation,
        "isLiveDataset": False,
    }
    if creator:
        out["creator"] = {"@type": "sc:Organization", "name": creator}
    if published:
        out["datePublished"] = published
    out["distribution"] = [_file(path, digest) for path, digest in sorted(hashes.items())]
    out["recordSet"] = [_documents(path) for path in sorted(hashes) if path.rpartition("/")[2] == "documents.jsonl"]
    return out


def _file(path: str, digest: str) -> dict[str, Any]:
    kind = next((kind for end, kind in _FORMATS.items() if path.endswith(end)), "application/octet-stream")
    return {"@type": "cr:FileObject", "@id": path, "name": path, "contentUrl": path, "encodingFormat": kind,
            "sha256": digest}  # fmt: skip


def _documents(path: str) -> dict[str, Any]:
    """The list of documents, so that a reader of Croissant can go through it."""
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"documents/{field}",
            "name": f"documents/{field}",
            "dataType": kind,
            "source": {"fileObject": {"@id": path}, "extract": {"column": field}},
        }
        for field, kind in _DOCUMENT.items()
    ]
    return {"@type": "cr:RecordSet", "@id": "documents", "name": "documents", "field": fields}
