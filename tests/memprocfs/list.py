"""Opens a raw image of a guest's physical memory with memprocfs, and prints as JSON what it found there.

Usage: list.py IMAGE. Nothing is fetched: the symbol server is off.
"""

import json
import sys

import memprocfs


def threads(process):
    """The ids of its threads; None where memprocfs lacks their layout."""
    try:
        return sorted(t["tid"] for t in process.maps.thread())
    except RuntimeError:
        return None


def main(image):
    vmm = memprocfs.Vmm(["-device", image, "-disable-symbolserver", "-disable-python", "-norefresh"])
    system = vmm.process(4)
    found = {
        "build": vmm.kernel.build,
        "processes": [
            {
                "pid": p.pid,
                "ppid": p.ppid,
                "name": p.name,
                "root": f"{p.dtb:x}",
                "threads": threads(p),
            }
            for p in vmm.process_list()
        ],
        "modules": [
            {"name": m.name, "base": f"{m.base:x}", "size": m.image_size} for m in system.module_list()
        ],
    }
    json.dump(found, sys.stdout)


main(sys.argv[1])
