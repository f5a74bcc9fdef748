#!/usr/bin/env bash
# trimesh 5.2.0 (trimesh/exchange/gltf/__init__.py, _read_buffers)
#
# One expects: a glTF accessor with `sparse` gives the values of its buffer view, some of them replaced (glTF 2.0,
# section 3.6.2.3, sparse accessors), as viewers show it. A reader that does not know it says so.
# What happens: trimesh reads the values of the buffer view and leaves out what replaces them. Where there is no buffer
# view, which stands for zeros, all vertices lie at the origin, in spite of the accessor's own min and max. There is
# neither error nor warning.
#
# Output seen:
#   min and max of the accessor: [0, 0, 0] [1, 1, 5]
#   read, with a buffer view: [0, 0, 0] [1, 1, 1]
#   read, without: [0, 0, 0] [0, 0, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trimesh==5.2.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W error - <<'END'
import io
import json
import struct

import numpy as np
import trimesh


def glb(document, parts):
    """A binary glTF file; each part is a buffer view."""
    views, data = [], b""
    for part in parts:
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(part)})
        data += part + bytes(-len(part) % 4)
    text = json.dumps({"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(data)}], "bufferViews": views,
                       **document}).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], "<f4")
faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], "<u2")
replaced, by = np.array([1, 2, 3], "<u2"), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 5]], "<f4")
positions = {"componentType": 5126, "count": 4, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 5],
             "sparse": {"count": 3, "indices": {"bufferView": 2, "componentType": 5123}, "values": {"bufferView": 3}}}
indices = {"bufferView": 1, "componentType": 5123, "count": 12, "type": "SCALAR"}
print("min and max of the accessor:", positions["min"], positions["max"])
bounds = []
for words, of_view in (("with a buffer view", {"bufferView": 0}), ("without", {})):
    file = glb({"scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
                "accessors": [{**of_view, **positions}, indices],
                "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}]},
               [corners.tobytes(), faces.tobytes(), replaced.tobytes(), by.tobytes()])
    mesh = trimesh.load_mesh(io.BytesIO(file), file_type="glb", process=False)
    bounds.append(mesh.bounds.astype(int).tolist())
    print(f"read, {words}:", *bounds[-1])
assert bounds == [[[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]]
END
