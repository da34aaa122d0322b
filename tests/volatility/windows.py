"""Opens a Windows crash dump with volatility3, and prints as JSON what its plug-ins find there.

Usage: windows.py DUMP FOLDER PAGES [PDB]. Physical memory, as volatility3's layer of the dump gives it, goes into the file
PAGES; with the kernel's PDB, which is turned into a symbol file in FOLDER, the plug-ins that need symbols run too. Nothing
is fetched.
"""

import json
import sys
from pathlib import Path

import volatility3.plugins
import volatility3.symbols
from volatility3 import framework
from volatility3.framework import automagic, constants, contexts, interfaces, plugins
from volatility3.framework.layers import crash
from volatility3.framework.symbols.windows import pdbconv
from volatility3.plugins.windows import crashinfo, info, kpcrs, modules, pslist

# LF_NESTTYPE (cvinfo.h).
NEST_TYPE = 0x1510

# Structures that volatility3 wants to know of before it looks at anything, and that the guest's kernel hasn't.
ABSENT = """
_CMHIVE _CM_KEY_BODY _CM_KEY_NODE _CM_KEY_VALUE _CONTROL_AREA _DEVICE_OBJECT _DRIVER_OBJECT _ERESOURCE _EX_FAST_REF
_FILE_OBJECT _HMAP_ENTRY _IMAGE_DOS_HEADER _KMUTANT _KTIMER _MMVAD _MMVAD_SHORT _OBJECT_HEADER _OBJECT_SYMBOLIC_LINK
_POOL_TRACKER_BIG_PAGES _SHARED_CACHE_MAP _TOKEN _VACB
"""


class Reader(pdbconv.PdbReader):
    """Reads PDBs that clang wrote: structures that are declared within others have an entry there, and are no fields."""

    def consume_type(self, module, offset, length):
        read = self.context.layers[module.layer_name].read
        if int.from_bytes(read(offset, 2), "little") == NEST_TYPE:
            # The leaf, padding, the type's index, its name.
            end = 8
            while read(offset + end, 1) != b"\0":
                end += 1
            return None, end + 1
        (kind, name, value), consumed = super().consume_type(module, offset, length)
        if isinstance(value, list):
            value = [field for field in value if field is not None]
        return (kind, name, value), consumed


def make_symbols(pdb, folder):
    """Turns a PDB into a symbol file, unless that was done before."""
    path = Path(pdb).resolve()
    place = Path(folder) / "windows" / path.name
    if place.is_dir():
        return
    isf = Reader(contexts.Context(), path.as_uri(), path.name).get_json()
    types = isf["user_types"]
    for name in ABSENT.split():
        types.setdefault(name, {"kind": "struct", "size": 1, "fields": {}})
    isf["enums"]["_NT_PRODUCT_TYPE"] = {
        "base": "unsigned int",
        "size": 4,
        "constants": {"NtProductWinNt": 1, "NtProductLanManNt": 2, "NtProductServer": 3},
    }
    types["_KUSER_SHARED_DATA"]["fields"]["NtProductType"]["type"] = {"kind": "enum", "name": "_NT_PRODUCT_TYPE"}
    known = isf["metadata"]["windows"]["pdb"]
    place.mkdir(parents=True)
    (place / f"{known['GUID']}-{known['age']}.json").write_text(json.dumps(isf))


def rows(context, plugin, available=(), known=None):
    """The rows of a plug-in's table; what it requires is known by name, or found."""
    for name, value in (known or {}).items():
        context.config[f"plugins.{plugin.__name__}.{name}"] = value
    magics = automagic.choose_automagic(list(available), plugin)
    grid = plugins.construct_plugin(context, magics, plugin, "plugins", None, None).run()
    found = []
    columns = [column.name for column in grid.columns]

    def visit(node, _):
        values = (None if isinstance(v, interfaces.renderers.BaseAbsentValue) else v for v in node.values)
        found.append({c: v if isinstance(v, (int, type(None))) else str(v) for c, v in zip(columns, values)})

    grid.populate(visit, None)
    return found


def copy_pages(context, file):
    """Writes all memory that the layer of the dump has, and says where it is: pairs of address and length."""
    (layer,) = (l for l in context.layers.values() if isinstance(l, crash.WindowsCrashDump32Layer))
    ranges = []
    with open(file, "wb") as out:
        for start, length, *_ in layer.mapping(0, layer.maximum_address + 1, ignore_errors=True):
            out.write(layer.read(start, length))
            ranges.append([start, length])
    return type(layer).__name__, ranges


def main(dump, folder, pages, pdb=None):
    folder = str(Path(folder).resolve())
    constants.OFFLINE = True
    constants.CACHE_PATH = folder
    volatility3.symbols.__path__.insert(0, folder)
    framework.import_files(volatility3.plugins, True)
    if pdb:
        make_symbols(pdb, folder)
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = Path(dump).resolve().as_uri()
    found = {}
    if pdb:
        # The first finds the kernel for all.
        found["Info"] = rows(context, info.Info, automagic.available(context))
        kernel = {"kernel": context.config["plugins.Info.kernel"]}
        for plugin in (pslist.PsList, modules.Modules, kpcrs.KPCRs):
            found[plugin.__name__] = rows(context, plugin, known=kernel)
        layer = {"primary": context.modules[kernel["kernel"]].layer_name}
        found["Crashinfo"] = rows(context, crashinfo.Crashinfo, known=layer)
    else:
        found["Crashinfo"] = rows(context, crashinfo.Crashinfo, automagic.available(context))
    found["layer"], found["ranges"] = copy_pages(context, pages)
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
