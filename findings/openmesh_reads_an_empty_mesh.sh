#!/usr/bin/env bash
# OpenMesh 1.2.1 for Python (src/OpenMesh/Core/IO/reader/OFFReader.cc and OBJReader.cc)
#
# One expects: read_trimesh raises RuntimeError where it cannot read a file, as it does where there is none. An OFF file
# may have comments on lines of their own, and an OBJ line may go on in the next one behind a backslash.
# What happens: a comment below "OFF" gives a mesh without vertices and faces. An OBJ face that goes on in the next line
# is left out of the mesh. Neither gives an error or a message.
#
# Output seen:
#   OFF: 4 vertices, 4 faces; with a comment: 0 vertices, 0 faces
#   OBJ: 4 vertices, 4 faces; with one face on two lines: 4 vertices, 3 faces
#   no file: RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openmesh==1.2.1 numpy==2.4.6
cd "$folder"
corners=$'0 0 0\n1 0 0\n0 1 0\n0 0 1'
faces=$'3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3'
printf 'OFF\n4 4 6\n%s\n%s\n' "$corners" "$faces" > plain.off
printf 'OFF\n# a tetrahedron\n4 4 6\n%s\n%s\n' "$corners" "$faces" > changed.off
sed 's/^/v /' <<< "$corners" | tee plain.obj > changed.obj
printf 'f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n' >> plain.obj
printf 'f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 \\\n4\n' >> changed.obj
venv/bin/python -W error - 2> messages <<'END' || { cat messages; exit 1; }
import openmesh


def read(name):
    mesh = openmesh.read_trimesh(name)
    return mesh.n_vertices(), mesh.n_faces()


off, obj = ([read(f"{name}.{kind}") for name in ("plain", "changed")] for kind in ("off", "obj"))
print("OFF: {} vertices, {} faces; with a comment: {} vertices, {} faces".format(*off[0], *off[1]))
print("OBJ: {} vertices, {} faces; with one face on two lines: {} vertices, {} faces".format(*obj[0], *obj[1]))
try:
    read("none.off")
except RuntimeError as error:
    print(f"no file: {type(error).__name__}")
else:
    raise AssertionError
assert off == [(4, 4), (0, 0)] and obj == [(4, 4), (4, 3)]
END
test ! -s messages
