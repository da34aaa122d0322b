#!/usr/bin/env python3
"""Stock drgn at a running Linux guest of kdd: nothing in the guest, no debug package.

    python3 docs/live_drgn.py 127.0.0.1:40123             # a gdb endpoint of the guest; a Python prompt with prog and drgn's helpers
    python3 docs/live_drgn.py 127.0.0.1:40123 SCRIPT ...  # runs a script instead

Memory is read by guest-physical address over the GDB remote protocol, while the guest runs. Symbols and types are the file that
kdd makes of the kernel's own kallsyms and BTF. Needs drgn 0.0.31 or newer.
"""

import re
import runpy
import socket
import sys
import tempfile

import drgn
from drgn.helpers import linux  # noqa: F401 - the prompt has them


class Remote:
    """A session of the GDB remote protocol (GDB manual, appendix E)."""

    def __init__(self, address):
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address[5:])
        else:
            host, port = address.rsplit(":", 1)
            self.socket = socket.create_connection((host, int(port)))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.ask(b"QStartNoAckMode")
        self.socket.sendall(b"+")

    def send(self, body):
        self.socket.sendall(b"$%s#%02x" % (body, sum(body) & 0xFF))

    def receive(self):
        """The body of a packet, its escapes and repetitions undone."""
        # Neither of both is in a body.
        while (end := self.received.find(b"#")) < 0 or len(self.received) < end + 3:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError("the guest's endpoint closed the connection")
            self.received += data
        body = bytes(self.received[self.received.find(b"$") + 1 : end])
        del self.received[: end + 3]
        if b"*" in body:
            return self.unpacked(body)
        return re.sub(rb"(?s)}(.)", lambda escape: bytes([escape[1][0] ^ 0x20]), body)

    @staticmethod
    def unpacked(body):
        plain, at = bytearray(), 0
        while at < len(body):
            byte = body[at : at + 1]
            if byte == b"}":
                plain.append(body[at + 1] ^ 0x20)
            elif byte == b"*":
                plain += plain[-1:] * (body[at + 1] - 29)
            else:
                plain += byte
            at += 1 if byte not in (b"}", b"*") else 2
        return bytes(plain)

    def ask(self, body):
        self.send(body)
        return self.receive()

    def transfer(self, what):
        """A `qXfer` document."""
        document = b""
        while True:
            answer = self.ask(b"qXfer:%s:%x,10000" % (what, len(document)))
            if answer[:1] not in (b"m", b"l"):
                raise LookupError("kdd recognises no Linux kernel in this guest (yet)")
            document += answer[1:]
            if answer[:1] == b"l":
                return document

    def monitor(self, command):
        """What a monitor command prints."""
        self.send(b"qRcmd," + command.encode().hex().encode())
        text = b""
        while (answer := self.receive()) != b"OK":
            if answer[:1] != b"O":
                raise LookupError(f"monitor {command}: {answer.decode()}")
            text += bytes.fromhex(answer[1:].decode())
        return text.decode()

    def fetch(self, name, into):
        """Copies a file of the stub's."""
        answer = self.ask(b"vFile:open:%s,0,0" % name.hex().encode())
        if answer.startswith(b"F-"):
            raise FileNotFoundError(name.decode())
        descriptor, offset = answer[1:], 0
        while True:
            answer = self.ask(b"vFile:pread:%s,10000,%x" % (descriptor, offset))
            _, data = answer.split(b";", 1)
            if not data:
                return
            into.write(data)
            offset += len(data)

    def read_physical(self, address, count, offset, physical):
        data = b""
        while len(data) < count:
            answer = self.ask(b"x%x,%x" % (address + len(data), min(count - len(data), 0x8000)))
            if answer[:1] != b"b":
                raise drgn.FaultError("no memory there", address + len(data))
            data += answer[1:]
        return data


def program(address):
    """A drgn program of the guest behind a gdb endpoint."""
    # The guest stands still only while its kernel is recognised.
    remote = Remote(address)
    remote.ask(b"qSupported:binary-upload+")
    remote.ask(b"?")
    name = remote.transfer(b"exec-file:read:")
    vmcoreinfo = remote.monitor("lx vmcoreinfo")
    symbols = tempfile.NamedTemporaryFile(prefix="vmlinux-", suffix=".kdd")
    remote.fetch(name, symbols)
    symbols.flush()
    remote.ask(b"D")

    memory = Remote(address)
    memory.ask(b"Qqemu.PhyMemMode:1")
    # The file's addresses are those of this boot: nothing is to be added to them.
    vmcoreinfo = re.sub(r"(?m)^KERNELOFFSET=.*$", "KERNELOFFSET=0", vmcoreinfo)
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    prog.add_memory_segment(0, 1 << 52, memory.read_physical, True)
    prog.set_linux_kernel_custom(vmcoreinfo, is_live=True)
    prog.load_debug_info([symbols.name])
    prog.cache["kdd"] = (memory, symbols)
    return prog


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    prog = program(sys.argv[1])
    if len(sys.argv) > 2:
        sys.argv = sys.argv[2:]
        runpy.run_path(sys.argv[0], init_globals={"prog": prog}, run_name="__main__")
    else:
        from drgn.cli import run_interactive

        run_interactive(prog)


if __name__ == "__main__":
    main()
