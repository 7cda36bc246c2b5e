"""Virtual machines for tests: QEMU with a Debian kernel and an initramfs of busybox, that boot in a few seconds.

A guest has one network card of kind virtio-net. Commands run in it by a serial line of their own, one after the other.
"""
import base64
import functools
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import tempfile
import time

from lab import ROOT, run

#: What a kernel needs to have a virtio-net card on a PCI bus, in the order in which it is loaded.
MODULES = [
    "virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci", "net/core/failover", "net/net_failover", "net/virtio_net"]
#: Programs of the machine that go into a guest, with their libraries.
PROGRAMS = ["ip", "ethtool", "iperf3", "ping"]

ACCELERATORS = {
    "kvm": ["-accel", "kvm", "-cpu", "host,arch-capabilities=off"], "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"]}

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /tmp /run /dev/pts
mount -t devpts pts /dev/pts
export PATH=/usr/bin:/bin
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ip link set lo up
# A line is a number and a command in base64; its answer the number, the status and the output in base64.
exec </dev/ttyS1 >/dev/ttyS1 2>/dev/console
stty raw -echo 2>/dev/null
echo ready
while read -r number command; do
  # The shell would take its own programs before those of the same name.
  { for name in $(ls /usr/bin); do echo "$name() { /usr/bin/$name \"\$@\"; }"; done; echo "$command" | base64 -d; } >/tmp/command
  sh /tmp/command >/tmp/output 2>&1 </dev/null
  status=$?
  echo "$number $status $(base64 /tmp/output | tr -d '\n')"
done
"""


def cpio(entries):
    """An archive of (name, mode, bytes) in the format that the kernel unpacks (newc)."""
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def libraries(program):
    """The shared libraries that a program loads, by their paths."""
    words = run("ldd", program).stdout.split()
    return {word for word in words if word.startswith("/")}


_image = {}


def image():
    """(kernel, initramfs): made once for all guests of a run."""
    if _image:
        return _image["kernel"], _image["initramfs"]
    folder = pathlib.Path(run("bash", "-c", f". '{ROOT}/tools/lab-packages' && weft_guest_kernel", timeout=300).stdout.strip())
    [kernel] = (folder / "boot").glob("vmlinuz-*")
    [modules] = (folder / "lib/modules").glob("*")
    files = {"bin/busybox": pathlib.Path(shutil.which("busybox"))}
    for name in PROGRAMS:
        path = shutil.which(name)
        assert path, f"{name} is not installed; tools/lab-packages names its package"
        files[f"usr/bin/{name}"] = pathlib.Path(path)
        for library in libraries(path):
            files[library.lstrip("/")] = pathlib.Path(library)
    order = []
    for module in MODULES:
        places = [modules / "kernel" / "drivers" / f"{module}.ko", modules / "kernel" / f"{module}.ko"]
        # A module that a later kernel has built in is no module.
        for place in places:
            if place.exists():
                order.append(place.stem)
                files[f"modules/{place.stem}.ko"] = place
    contents = {name: (stat.S_IFREG | 0o755, path.read_bytes()) for name, path in files.items()}
    contents["init"] = (stat.S_IFREG | 0o755, INIT.encode())
    contents["modules/order"] = (stat.S_IFREG | 0o644, " ".join(order).encode())
    folders = {str(parent) for name in contents for parent in pathlib.PurePath(name).parents} - {"."}
    folders |= {"proc", "sys", "dev", "tmp"}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b""))
    entries += [(name, mode, data) for name, (mode, data) in sorted(contents.items())]
    made = tempfile.NamedTemporaryFile(prefix="weft-guest-", suffix=".cpio")
    made.write(cpio(entries))
    made.flush()
    _image.update(kernel=str(kernel), initramfs=made.name, keep=made)
    return _image["kernel"], _image["initramfs"]


@functools.cache
def accelerator():
    """KVM where it boots a kernel, which within a virtual machine not every one does, else QEMU's own translation."""
    if wanted := os.environ.get("WEFT_GUEST_ACCELERATOR"):
        assert wanted in ACCELERATORS, f"WEFT_GUEST_ACCELERATOR is {wanted}; it can be {' or '.join(ACCELERATORS)}"
        return ACCELERATORS[wanted]
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ACCELERATORS["tcg"]
    with tempfile.NamedTemporaryFile(prefix="weft-kvm-") as console:
        process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "128M",
             *ACCELERATORS["kvm"], "-kernel", image()[0], "-append", "console=ttyS0 earlyprintk=serial,ttyS0",
             "-serial", f"file:{console.name}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 3
            while time.monotonic() < end and process.poll() is None:
                if b"Linux version" in pathlib.Path(console.name).read_bytes():
                    return ACCELERATORS["kvm"]
                time.sleep(0.05)
            return ACCELERATORS["tcg"]
        finally:
            process.kill()
            process.wait()


class Guest:
    """A virtual machine on a node, running. `netdev`: QEMU's -netdev without its id; `device`: more of the card's."""

    def __init__(self, node, name, mac, netdev, device="", shared=False, queues=1, memory=192, chardev=None, wait=True):
        self.node, self.name, self.mac = node, name, mac
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"weft-{name}-"))
        self.arguments = dict(netdev=netdev, device=device, shared=shared, queues=queues, memory=memory, chardev=chardev)
        self.process, self.line, self.number = None, None, 0
        self.start()
        if wait:
            self.wait_ready()

    def start(self):
        kernel, initramfs = image()
        options = self.arguments
        serial = self.folder / "serial"
        serial.unlink(missing_ok=True)
        memory = f"size={options['memory']}M"
        backend = f"memory-backend-memfd,id=ram,{memory},share=on" if options["shared"] else f"memory-backend-ram,id=ram,{memory}"
        card = f"virtio-net-pci,netdev=net0,mac={self.mac}"
        if options["queues"] > 1:
            card += ",mq=on"
        if options["shared"] and accelerator() is ACCELERATORS["tcg"]:
            # Without KVM, QEMU 7.2 falls over message-signalled interrupts of a card with a back end (in vhost_net_start).
            card += ",vectors=0"
        elif options["queues"] > 1:
            card += f",vectors={2 * options['queues'] + 2}"
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,memory-backend=ram", "-object", backend, "-m", f"{options['memory']}M",
            "-smp", str(max(1, options["queues"])),
            *accelerator(),
            "-kernel", kernel, "-initrd", initramfs,
            "-append", "console=ttyS0 loglevel=5 panic=1 reboot=k tsc=reliable random.trust_cpu=on rdinit=/init net.ifnames=0",
            "-serial", f"file:{self.folder}/console", "-serial", f"unix:{serial},server=on,wait=off",
            *(["-chardev", options["chardev"]] if options["chardev"] else []),
            "-netdev", f"{options['netdev']},id=net0",
            "-device", card + (f",{options['device']}" if options["device"] else "")]
        self.process = self.node.start(*command, stdout=subprocess.DEVNULL)

    @property
    def console(self):
        path = self.folder / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def fail(self, what):
        output = self.process.stderr.read() if self.process.poll() is not None else ""
        raise AssertionError(f"guest {self.name}: {what} (status {self.process.poll()})\n{output}\n" + "\n".join(self.console.splitlines()[-20:]))

    def wait_ready(self, seconds=60):
        """Until it has booted and takes commands."""
        end = time.monotonic() + seconds
        line = socket.socket(socket.AF_UNIX)
        while True:
            try:
                line.connect(str(self.folder / "serial"))
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.fail("QEMU has ended")
                time.sleep(0.02)
        line.settimeout(seconds)
        self.line = line.makefile("rwb", buffering=0)
        self.socket = line
        self.read(lambda words: words[-1:] == [b"ready"])

    def read(self, is_it):
        while True:
            try:
                words = self.line.readline().split()
            except TimeoutError:
                self.fail("says nothing")
            except OSError:
                self.process.wait(5)
                self.fail("QEMU has ended")
            if not words and self.process.poll() is not None:
                self.fail("QEMU has ended")
            if is_it(words):
                return words

    def exec(self, command, check=True, timeout=60):
        """Runs a shell's command in the guest: its output; with `check=False` (status, output)."""
        self.number += 1
        self.socket.settimeout(timeout)
        self.line.write(b"%d %s\n" % (self.number, base64.b64encode(command.encode())))
        number = b"%d" % self.number
        words = self.read(lambda words: words[:1] == [number] and len(words) >= 2)
        status = int(words[1])
        output = base64.b64decode(words[2]).decode(errors="replace") if len(words) > 2 else ""
        if not check:
            return status, output
        assert status == 0, f"{command} in guest {self.name}: status {status}\n{output}"
        return output

    def configure(self, addresses, gateways=(), mtu=None):
        """Addresses with prefix lengths, and a default route by each gateway, set by hand."""
        lines = [f"ip link set eth0 up {f'mtu {mtu}' if mtu else ''}"]
        lines += [f"ip address add {address} dev eth0 nodad" if ":" in address else f"ip address add {address} dev eth0"
                  for address in addresses]
        lines += [f"ip -{6 if ':' in gateway else 4} route add default via {gateway}" for gateway in gateways]
        self.exec("set -e\n" + "\n".join(lines))

    def request(self):
        """Asks for an address by DHCP (busybox's client); what it was given, by udhcpc's names of it."""
        script = "#!/bin/sh\n[ \"$1\" = bound ] && env >/tmp/lease && ip address add $ip/$mask dev eth0 " \
                 "&& for hop in $router; do ip route add default via $hop; done; exit 0"
        self.exec(f"printf '%s' '{base64.b64encode(script.encode()).decode()}' | base64 -d >/tmp/dhcp && chmod +x /tmp/dhcp")
        self.exec("ip link set eth0 up && udhcpc -i eth0 -n -q -t 5 -T 1 -s /tmp/dhcp")
        return dict(line.split("=", 1) for line in self.exec("cat /tmp/lease").splitlines() if "=" in line)

    def ping(self, address, count=10, size=56, interval=0.02, more=""):
        """Sends echo requests: how many were answered."""
        _, output = self.exec(f"ping -n -c {count} -i {interval} -W 2 -s {size} {more} {address}", check=False)
        words = output.split()
        assert "received," in words, f"ping {address} in guest {self.name}: {output}"
        return int(words[words.index("received,") - 1])

    def counter(self, path):
        return int(self.exec(f"cat {path}"))

    def checksum_errors(self):
        """The kernel's counters of wrong checksums, those that are not 0."""
        found = {}
        lines = self.exec("cat /proc/net/snmp").splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            for name, value in zip(names.split()[1:], values.split()[1:]):
                if "Csum" in name and int(value):
                    found[names.split(":")[0] + name] = int(value)
        for line in self.exec("cat /proc/net/snmp6").splitlines():
            name, value = line.split()
            if "Csum" in name and int(value):
                found[name] = int(value)
        return found

    def reboot(self):
        """From within, as its owner would."""
        self.number += 1
        self.line.write(b"%d %s\n" % (self.number, base64.b64encode(b"reboot -f")))
        self.socket.settimeout(60)
        self.read(lambda words: words[-1:] == [b"ready"])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self):
        self.kill()
        if self.line:
            self.line.close()
            self.socket.close()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Wire:
    """TCP between a guest and a pod, hashed at both ends (busybox's nc in the guest, iperf3 for speed)."""

    port = 7700

    @classmethod
    def to_pod(cls, guest, pod, address, size):
        """Sends from the guest; both ends' hashes."""
        cls.port += 1
        server = pod.start("timeout", 60, "/usr/bin/python3", "-c", TAKE, address, cls.port)
        assert server.stdout.readline().strip() == "listening", server.stderr.read()
        sent = guest.exec(
            f"dd if=/dev/urandom of=/tmp/sent bs=65536 count={size >> 16} 2>/dev/null; sha256sum </tmp/sent; "
            f"nc {address} {cls.port} </tmp/sent >/dev/null; rm /tmp/sent").split()[0]
        taken = json.loads(server.communicate(timeout=60)[0].splitlines()[-1])
        assert taken["bytes"] == size, f"{taken['bytes']} of {size} bytes arrived"
        return sent, taken["sha256"]

    @classmethod
    def to_guest(cls, pod, guest, address, size):
        cls.port += 1
        guest.exec(f"rm -f /tmp/taken; (nc -l -p {cls.port} >/tmp/taken; sha256sum </tmp/taken >/tmp/hash.{cls.port}) "
                   ">/dev/null 2>&1 </dev/null &")
        sent = json.loads(pod.exec("/usr/bin/python3", "-c", SEND, address, cls.port, size, timeout=60).stdout)
        taken = guest.exec(f"for i in $(seq 200); do [ -s /tmp/hash.{cls.port} ] && break; sleep 0.05; done; "
                           f"cat /tmp/hash.{cls.port}; rm -f /tmp/taken").split()[0]
        return sent["sha256"], taken


TAKE = """
import hashlib, json, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(1)
print("listening", flush=True)
connection, digest, count = listener.accept()[0], hashlib.sha256(), 0
while data := connection.recv(1 << 18):
    digest.update(data)
    count += len(data)
print(json.dumps({"bytes": count, "sha256": digest.hexdigest()}))
"""

SEND = """
import hashlib, json, os, socket, sys, time
for attempt in range(100):
    try:
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
data = os.urandom(int(sys.argv[3]))
connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))
"""
