#!/usr/bin/env python3
"""Makes table.rs, the table of known kernels, from a JSON file of kernel facts.

    generate.py FACTS.json > table.rs

FACTS.json has `builds` (kernels with structures and RVAs), `kernels` (GUID, age, RVAs, layout_id) and `layouts`
(structures by Windows version, without RVAs), as they come from public PDBs. Which fields and variables are taken is
read from ../field.rs.
"""

import json
import pathlib
import re
import sys

# What the x86 KPCR calls these fields (nt kernel public PDBs).
X86_NAMES = {
    "_KPCR.Self": "SelfPcr",
    "_KPCR.CurrentPrcb": "Prcb",
    "_KPCR.Prcb": "PrcbData",
}

# The builds that the version-named layouts are of.
LAYOUT_BUILDS = [
    ("win10_x64_1AC738FB", 10586),
    ("win10_x86_44B89EEA", 10586),
    ("win10_x64_10240", 10240),
    ("win10_x86_10240", 10240),
    ("win7_sp0", 7600),
    ("win7_sp1", 7601),
    ("win8_sp0", 9200),
    ("win8_sp1", 9600),
    ("win81_u1", 9600),
]


def build_of(name):
    for prefix, build in LAYOUT_BUILDS:
        if name.startswith(prefix):
            return build
    number = re.fullmatch(r"win10_x(?:64|86)_(\d+)", name)
    return int(number.group(1)) if number else 10240


def names(source, enum):
    body = re.search(r"\n    %s \{\n(.*?)\n    \}" % enum, source, re.S).group(1)
    return re.findall(r'(\w+) = "([^"]+)";', body)


def offsets(structs, arch, fields):
    row = []
    for _, path in fields:
        struct, field = path.split(".")
        if arch == "x86":
            field = X86_NAMES.get(path, field)
        members = {k.lower(): v for k, v in structs.get(struct, {}).items()}
        value = members.get(field.lower(), 0xFFFF)
        assert 0 <= value <= 0xFFFF, (struct, field, value)
        row.append(value)
    return row


def wrap(cells, indent, width=112):
    line, lines = "", []
    for cell in cells:
        if len(indent) + len(line) + len(cell) + 2 > width:
            lines.append(indent + line.rstrip())
            line = ""
        line += cell + ", "
    lines.append(indent + line.rstrip())
    return "\n".join(lines)


def main():
    facts = json.load(open(sys.argv[1]))
    source = (pathlib.Path(__file__).parent.parent / "field.rs").read_text()
    fields, variables = names(source, "Field"), names(source, "Global")

    rows = []  # (name, arch, build, offsets)
    by_guid = {}
    for build in facts["builds"]:
        by_guid[build["guid"]] = (len(rows), build)
        number = int(build["version"].split(".")[2])
        rows.append((build["version"], build["arch"], number, offsets(build["structs"], build["arch"], fields)))
    for name, layout in facts["layouts"].items():
        rows.append((name, layout["arch"], build_of(name), offsets(layout["structs"], layout["arch"], fields)))
    layout_ids = {k["layout_id"]: by_guid[k["guid"]][0] for k in facts["kernels"] if k["guid"] in by_guid}

    columns = [(v, n) for v, n in variables if all(n in k["rvas"] for k in facts["kernels"])]
    more = [(v, n) for v, n in variables if (v, n) not in columns]

    print("//! The known kernels. Made by `generate.py`; don't edit.\n")
    print("use super::{KnownKernel, KnownLayout};")
    print("use crate::windows::facts::Arch;")
    print("use crate::windows::field::Global;\n")
    print("/// The variables of [`KnownKernel::rvas`], in order.")
    print("#[rustfmt::skip]")
    print(f"pub(super) const COLUMNS: [Global; {len(columns)}] = [")
    print(wrap([f"Global::{v}" for v, _ in columns], "    "))
    print("];\n")
    print("/// Layouts, by a kernel's version or a Windows version; offsets in the order of `Field`, 0xffff is unknown.")
    print("#[rustfmt::skip]")
    print("pub(super) static LAYOUTS: &[KnownLayout] = &[")
    for name, arch, build, row in rows:
        print(f'    KnownLayout {{ name: "{name}", arch: Arch::{arch.upper()}, build: {build}, offsets: [')
        print(wrap([f"{v:#x}" for v in row], "        "))
        print("    ] },")
    print("];\n")
    print("/// Kernels by GUID. `layout` is the number of a layout that is exactly theirs.")
    print("#[rustfmt::skip]")
    print("pub(super) static KERNELS: &[KnownKernel] = &[")
    for kernel in sorted(facts["kernels"], key=lambda k: k["guid"]):
        layout = layout_ids.get(kernel["layout_id"])
        build = by_guid.get(kernel["guid"], (None, {"rvas": {}}))[1]
        print(f'    KnownKernel {{ guid: 0x{kernel["guid"]}, age: {kernel["age"]}, version: "{kernel["version"]}", '
              f'layout: {"None" if layout is None else f"Some({layout})"}, '
              f'kprcb_size: {kernel["kprcb_size"]:#x}, eprocess_size: {kernel["eprocess_size"]:#x},')
        print("        rvas: [")
        print(wrap([f"{kernel['rvas'][n]:#x}" for _, n in columns], "            "))
        print("        ],")
        extra = [f"(Global::{v}, {build['rvas'][n]:#x})" for v, n in more if n in build["rvas"]]
        print("        more: &[" + ("\n" + wrap(extra, "            ") + "\n        " if extra else "") + "] },")
    print("];")


main()
