#!/usr/bin/env bash
# trimesh 5.2.0 (trimesh/exchange/obj.py, load_obj) and meshio 5.3.5 (meshio/obj/_obj.py)
#
# One expects: a negative number in an OBJ face counts backward from the last vertex above that face. So two triangles
# with their own corners right above each may both be "f -3 -2 -1".
# What happens: trimesh counts from the last vertex of the file, and both triangles become the second one. meshio takes 1
# off, as for a positive number, so that -1 becomes -2: the last vertex but one of the file. What it writes to STL is a
# triangle that the file does not have, twice. Neither gives an error or a warning.
#
# Output seen:
#   in the file: z = [0, 0, 0] and [5, 5, 5]
#   trimesh: z = [5, 5, 5] and [5, 5, 5]
#   meshio: numbers [-4, -3, -2] and [-4, -3, -2]
#   meshio, written to STL: z = [0, 5, 5] and [0, 5, 5]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trimesh==5.2.0 meshio==5.3.5 numpy==2.4.6
cd "$folder"
cat > two.obj <<'END'
v 0 0 0
v 1 0 0
v 0 1 0
f -3 -2 -1
v 0 0 5
v 1 0 5
v 0 1 5
f -3 -2 -1
END
venv/bin/python -W error - <<'END'
import meshio
import trimesh


def heights(points, faces):
    return points[faces][..., 2].astype(int).tolist()


mesh = trimesh.load_mesh("two.obj", process=False)
by_trimesh = heights(mesh.vertices, mesh.faces)
mesh = meshio.read("two.obj")
numbers = mesh.cells_dict["triangle"].tolist()
mesh.write("two.stl")
written = trimesh.load_mesh("two.stl", process=False)
by_meshio = heights(written.vertices, written.faces)
print("in the file: z = [0, 0, 0] and [5, 5, 5]")
print("trimesh: z = {} and {}".format(*by_trimesh))
print("meshio: numbers {} and {}".format(*numbers))
print("meshio, written to STL: z = {} and {}".format(*by_meshio))
assert by_trimesh == [[5, 5, 5], [5, 5, 5]]
assert numbers == [[-4, -3, -2], [-4, -3, -2]] and by_meshio == [[0, 5, 5], [0, 5, 5]]
END
