#!/usr/bin/env bash
# trimesh 5.2.0 (trimesh/exchange/gltf/__init__.py, load_glb)
#
# One expects: a reader refuses a glTF asset that lists in extensionsRequired an extension unknown to it. The list names
# what is "required to load and/or render an asset" (glTF 2.0, section 3.12).
# What happens: trimesh does not look at extensionsRequired when it reads. Of a tetrahedron that EXT_mesh_gpu_instancing
# puts at two places, five apart, it gives one. There is neither error nor warning.
#
# Output seen:
#   required: ['EXT_mesh_gpu_instancing'], instances at x = 0.0, 5.0
#   bodies read: 1, from x = 0.0 to 1.0
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

corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], "<f4")
faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], "<u2")
places = np.array([[0, 0, 0], [5, 0, 0]], "<f4")
data = corners.tobytes() + faces.tobytes() + places.tobytes()
extension = "EXT_mesh_gpu_instancing"
document = {
    "asset": {"version": "2.0"}, "extensionsUsed": [extension], "extensionsRequired": [extension],
    "scene": 0, "scenes": [{"nodes": [0]}],
    "nodes": [{"mesh": 0, "extensions": {extension: {"attributes": {"TRANSLATION": 2}}}}],
    "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
    "buffers": [{"byteLength": len(data)}],
    "bufferViews": [{"buffer": 0, "byteOffset": start, "byteLength": size}
                    for start, size in ((0, 48), (48, 24), (72, 24))],
    "accessors": [{"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3", "min": [0, 0, 0],
                   "max": [1, 1, 1]},
                  {"bufferView": 1, "componentType": 5123, "count": 12, "type": "SCALAR"},
                  {"bufferView": 2, "componentType": 5126, "count": 2, "type": "VEC3"}]}
text = json.dumps(document).encode()
text += b" " * (-len(text) % 4)
chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
file = struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

scene = trimesh.load_scene(io.BytesIO(file), file_type="glb")
bodies = len(scene.graph.nodes_geometry)
low, high = scene.bounds[:, 0]
print(f"required: {document['extensionsRequired']}, instances at x = {places[0, 0]}, {places[1, 0]}")
print(f"bodies read: {bodies}, from x = {low} to {high}")
assert (bodies, low, high) == (1, 0, 1)
END
