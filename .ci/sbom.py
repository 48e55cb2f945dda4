"""Write the bill of materials of a wheel, and the checksums of a folder of distributions.

    python -m build && python .ci/sbom.py dist

leaves ``facepurify-….whl.cdx.json`` (CycloneDX 1.6: the wheel, its weights, what it requires)
beside each wheel, and ``SHA256SUMS``, which ``sha256sum -c`` checks. It knows what a wheel asks
for, not what an environment has; for that: ``pip install cyclonedx-bom`` and ``cyclonedx-py
environment``.
"""

from __future__ import annotations

import argparse
import email.parser
import hashlib
import json
import re
import uuid
import zipfile
from pathlib import Path
from typing import Any

from facepurify.files import atomic_path

REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?")


def bill_of(wheel: Path) -> dict[str, Any]:
    """List what a wheel is, holds and requires.

    The same wheel gives the same bill, byte for byte.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(archive.read(name))
        manifest = json.loads(archive.read("facepurify/models/manifest.json"))
        weights = [
            weights_of(kind, key, entry, archive.read(f"facepurify/models/{entry['file']}"))
            for kind in ("models", "recognizers")
            for key, entry in manifest.get(kind, {}).items()
        ]
    reference = f"pkg:pypi/{metadata['Name']}@{metadata['Version']}"
    required = [library_of(line) for line in metadata.get_all("Requires-Dist", [])]
    # an extra may ask for the package itself, with other extras
    required = [part for part in required if part["name"] != metadata["Name"]]
    # what is both required and in an extra is required: metadata names extras last
    components = {part["bom-ref"]: part for part in [*weights, *reversed(required)]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "bom-ref": reference,
                "type": "library",
                "name": metadata["Name"],
                "version": metadata["Version"],
                "purl": reference,
                "licenses": [{"license": {"id": metadata["License-Expression"] or "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        },
        "components": sorted(components.values(), key=lambda part: str(part["bom-ref"])),
        "dependencies": [{"ref": reference, "dependsOn": sorted(components)}],
    }


def weights_of(kind: str, name: str, entry: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Describe one file of weights, with the checksum of what is in the wheel."""
    return {
        "bom-ref": f"{kind}/{name}",
        "type": "machine-learning-model",
        "name": entry["file"],
        "version": entry["version"],
        "licenses": [{"license": {"name": entry["licence"]}}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
    }


def library_of(requirement: str) -> dict[str, Any]:
    """Describe one requirement; what only an extra asks for is optional."""
    found = REQUIREMENT.fullmatch(requirement)
    if found is None:
        raise ValueError(f"expected a requirement, got {requirement!r}")
    name, versions, marker = found.groups()
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return {
        "bom-ref": f"pkg:pypi/{normal}",
        "type": "library",
        "name": normal,
        "purl": f"pkg:pypi/{normal}",
        "scope": "optional" if "extra ==" in (marker or "") else "required",
        "properties": [{"name": "requirement", "value": versions or "any"}],
    }


def main() -> None:
    """Describe every wheel of a folder, and sum up every file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with wheels and sdists")
    folder: Path = parser.parse_args().folder
    for wheel in sorted(folder.glob("*.whl")):
        with atomic_path(f"{wheel}.cdx.json") as temporary:
            temporary.write_text(json.dumps(bill_of(wheel), indent=1) + "\n", encoding="ascii")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in files
        if path.name != "SHA256SUMS"
    ]
    with atomic_path(folder / "SHA256SUMS") as temporary:
        temporary.write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    main()
