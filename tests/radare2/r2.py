"""radare2's command line, out of the libraries that the package r2libr brings.

Usage: r2.py FOLDER ARGUMENT...; FOLDER is where the package was installed.
"""

import ctypes
import pathlib
import sys


def main(folder, arguments):
    library = pathlib.Path(folder) / "libr" / "libr" / "libr_main.so"
    radare2 = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL).r_main_radare2
    words = [word.encode() for word in ["radare2", *arguments]]
    return radare2(len(words), (ctypes.c_char_p * (len(words) + 1))(*words, None))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
