"""DHCP and router advertisements for virtual machines' ports, asked by clients that others wrote: ISC's dhclient, busybox's
udhcpc, rdisc6, the kernel. 20 seconds."""
import json
import pathlib
import re
import shlex
import stat
import tempfile

import pytest
from lab import ROUTER_MAC, Lab, Pod, end, run, wait_for

LINK_LOCAL = "fe80::200:5eff:fe00:100"
DHCP = """\
    dhcp:
      lease-time: 3600
      domain: blue.example.org
      search: [blue.example.org, example.org]
      ntp: [10.1.0.123, "fd00:1::123"]
      boot: {server: 10.1.0.69, file: pxelinux.0, url: "tftp://[fd00:1::69]/boot.efi"}
      interval: 4
"""
#: Hosts make their address themselves; pods ask too.
SLAAC = """\
  - name: self
    subnets:
      - {prefix: 10.9.0.0/24}
      - {prefix: "fd00:9::/64"}
    vni: 5009
    dns: ["fd00:9::53"]
    routes: ["::/0", {destination: "2001:db8:7::/48", gateway: "fd00:9::1"}, 0.0.0.0/0,
             {destination: 198.51.100.0/25, gateway: 10.9.0.1}]
    dhcp: {ipv6: stateless, slaac: true, pods: true, domain: self.example.org}
"""


class Machine(Pod):
    """What stands for a virtual machine: a namespace with one end of a veth, the other end the port."""

    def __init__(self, lab, number, network="blue", addresses=None, name=None, more=None):
        super().__init__(lab, "n1", f"vm{number}", network)
        self.number, self.port, self.network = number, f"tapvm{number}", network
        self.uuid = f"00000000-0000-4000-8000-{number:012d}"
        self.hardware = f"02:00:00:00:0d:{number:02x}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.port, "netns", lab.n1.namespace, "type", "veth", "peer", "name", "eth0",
            "address", self.hardware, "netns", self.namespace)
        # Only who is tested answers advertisements and probes.
        self.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0", "net.ipv6.conf.eth0.accept_dad=0")
        self.exec("ip", "link", "set", "lo", "up")
        self.exec("ip", "link", "set", "eth0", "up")
        lab.n1.exec("ip", "link", "set", self.port, "up")
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=lab.folder))
        v4, v6 = addresses or (f"10.1.1.{100 + number}", f"fd00:1::1:{number:x}d0")
        self.v4, self.v6 = v4, v6
        lab.tool("http", "n1", "POST", "/port", json.dumps({
            "id": self.uuid, "instance-id": self.uuid, "vn-id": network, "mac-address": self.hardware,
            "system-name": self.port, "display-name": name or f"vm{number}", "type": 0, "ip-address": v4,
            "ip6-address": v6, **(more or {})}))

    def vif(self):
        return next(row for row in self.lab.weft("n1", "vif") if row["device"] == self.port)

    def script(self, text):
        """An executable file."""
        path = self.folder / f"script{len(list(self.folder.iterdir()))}"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def dhclient(self, *options, want=None, seconds=20, config=""):
        """Runs ISC's client until it has what it wants; the variables that it gave its script."""
        told = self.folder / f"told{len(list(self.folder.iterdir()))}"
        script = self.script(f'env >>{shlex.quote(str(told))}; echo "-- $reason" >>{shlex.quote(str(told))}\n'
                             'case "$reason" in BOUND|RENEW|REBIND|REBOOT) ip address replace '
                             '"$new_ip_address/32" dev "$interface";; esac\nexit 0\n')
        conf = self.folder / "dhclient.conf"
        conf.write_text(config)
        leases = self.folder / "leases"
        process = self.start("dhclient", "-d", "-lf", leases, "-pf", self.folder / "pid", "-cf", conf, "-sf", script,
                             *options, "eth0")
        try:
            wait_for(lambda: told.exists() and f"-- {want}" in told.read_text(), seconds, f"dhclient {options}: {want}")
        except AssertionError:
            process.terminate()
            raise AssertionError(process.communicate(timeout=5)[1] + (told.read_text() if told.exists() else ""))
        end(process)
        block = told.read_text().split(f"-- {want}\n")[0].split("\n-- ")[-1]
        return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)

    @property
    def leases(self):
        return (self.folder / "leases").read_text()


@pytest.fixture(scope="module")
def dhcp_lab():
    lab = Lab()
    try:
        file = pathlib.Path(lab.folder) / "n1" / "agent.yaml"
        text = file.read_text().replace("dns: [10.96.0.10]\n", 'dns: [10.96.0.10, "fd00:96::10"]\n' + DHCP)
        file.write_text(text.replace("peers:\n", SLAAC + "peers:\n"))
        lab.tool("stop", "n1", "agent")
        lab.tool("start", "n1", "agent")
        yield lab
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(scope="module")
def machine(dhcp_lab):
    return Machine(dhcp_lab, 1)


def test_the_port_has_the_flag(machine):
    assert "dhcp" in machine.vif()["flags"]


def test_dhclient_gets_its_address(machine):
    told = machine.dhclient("-4", want="BOUND", config=(
        "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n"
        "request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, domain-search, host-name, "
        "ntp-servers, interface-mtu, rfc3442-classless-static-routes, tftp-server-name, bootfile-name;\n"))
    attachment = next(a for a in machine.lab.attachments("n1") if a["id"] == machine.uuid)
    expected = {
        "ip_address": machine.v4, "subnet_mask": "255.255.0.0", "broadcast_address": "10.1.255.255",
        "routers": "10.1.0.1", "dhcp_server_identifier": "10.1.0.1", "domain_name": "blue.example.org",
        "domain_name_servers": "10.96.0.10", "domain_search": "blue.example.org. example.org.",
        "host_name": "vm1", "ntp_servers": "10.1.0.123", "dhcp_lease_time": "3600",
        "interface_mtu": str(attachment["mtu"]), "rfc3442_classless_static_routes": "0 10 1 0 1",
        "tftp_server_name": "10.1.0.69", "bootfile_name": "pxelinux.0", "filename": "pxelinux.0",
    }
    assert {name: told.get(f"new_{name}") for name in expected} == expected
    assert machine.vif()["trapped"] >= 2


def test_the_address_works(machine):
    machine.exec("ip", "address", "replace", f"{machine.v4}/16", "dev", "eth0")
    assert machine.reaches("10.1.0.1")


def test_dhclient_has_its_lease_after_a_restart_of_the_agent(machine):
    machine.lab.tool("stop", "n1", "agent", "KILL")
    machine.lab.tool("start", "n1", "agent")
    # It asks for what it had (RFC 2131 section 3.2).
    told = machine.dhclient("-4", want="REBOOT")
    assert told["new_ip_address"] == machine.v4


def test_an_agent_that_is_down_is_waited_for(machine):
    before = machine.lab.weft("n1", "drops")
    machine.lab.tool("stop", "n1", "agent")
    (machine.folder / "leases").unlink()
    process = machine.start("busybox", "udhcpc", "-f", "-q", "-i", "eth0", "-t", "20", "-T", "1", "-s",
                            machine.script("exit 0"))
    name = "trap_nobody"
    count = lambda rows: next((row["count"] for row in rows if row["reason"] == name), 0)  # noqa: E731
    wait_for(lambda: count(machine.lab.weft("n1", "drops")) > count(before), 10, "a drop for want of an agent")
    assert process.poll() is None
    machine.lab.tool("start", "n1", "agent")
    assert process.wait(15) == 0
    assert f"lease of {machine.v4} obtained" in process.stderr.read() + process.stdout.read()


def test_dhclient_6(machine):
    wait_for(lambda: "tentative" not in machine.exec("ip", "-6", "address", "show", "dev", "eth0").stdout, 5, "fe80::")
    told = machine.dhclient("-6", "-D", "LL", want="BOUND6", config=(
        "also request dhcp6.name-servers, dhcp6.domain-search, dhcp6.sntp-servers;\n"))
    assert told["new_ip6_address"] == machine.v6
    assert told["new_dhcp6_name_servers"] == "fd00:96::10"
    assert told["new_dhcp6_domain_search"] == "blue.example.org. example.org."
    assert told["new_dhcp6_sntp_servers"] == "fd00:1::123"
    assert told["new_max_life"] == "3600"
    # With a lease it asks whether that still holds: confirm.
    assert machine.dhclient("-6", "-D", "LL", want="BOUND6")["new_ip6_address"] == machine.v6


def test_dhclient_6_without_addresses(machine):
    told = machine.dhclient("-6", "-S", want="RENEW6", config="request dhcp6.name-servers;\n")
    assert told["new_dhcp6_name_servers"] == "fd00:96::10"


def test_release_6(machine):
    release = machine.exec("dhclient", "-6", "-r", "-lf", machine.folder / "leases", "-pf", machine.folder / "pid",
                           "-sf", machine.script("exit 0"), "eth0", check=False)
    assert release.returncode == 0, release.stderr
    log = pathlib.Path(machine.lab.folder) / "n1" / "agent.log"
    wait_for(lambda: f"{machine.v6} released" in log.read_text(), 5, "a note of the release")


def test_rdisc6(machine):
    text = machine.exec("rdisc6", "-1", "-n", "eth0").stdout
    mtu = next(a for a in machine.lab.attachments("n1") if a["id"] == machine.uuid)["mtu"]
    for pattern in [
        r"Hop limit\s*:\s*64", r"Stateful address conf\.\s*:\s*Yes", r"Stateful other conf\.\s*:\s*Yes",
        r"Router lifetime\s*:\s*1800", r"Prefix\s*:\s*fd00:1::/64", r"On-link\s*:\s*Yes",
        r"Autonomous address conf\.:\s*No", rf"MTU\s*:\s*{mtu} bytes", rf"Source link-layer address:\s*{ROUTER_MAC.upper()}",
        r"Recursive DNS server\s*:\s*fd00:96::10", r"DNS search list\s*:\s*blue\.example\.org", f"from {LINK_LOCAL}",
    ]:
        assert re.search(pattern, text), f"{pattern}\n{text}"


def test_the_kernel_takes_routes_from_advertisements_that_nobody_asked_for(machine):
    machine.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
    try:
        # The interval is four seconds, and solicitations have ended long ago.
        wait_for(lambda: f"default via {LINK_LOCAL}" in machine.exec("ip", "-6", "route").stdout, 12, "a default route")
        route = machine.exec("ip", "-6", "route").stdout
        assert "fd00:1::/64" in route
        addresses = machine.exec("ip", "-6", "address", "show", "dev", "eth0", "scope", "global").stdout
        assert "dynamic" not in addresses, "an address that leads nowhere"
        machine.exec("ip", "address", "replace", f"{machine.v6}/128", "dev", "eth0")
        assert machine.reaches("fd00:1::1")
    finally:
        machine.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0")


def test_slaac(dhcp_lab):
    # The address that RFC 4291 makes of 02:00:00:00:0d:02.
    machine = Machine(dhcp_lab, 2, "self", ("10.9.0.20", "fd00:9::ff:fe00:d02"))
    machine.exec("ip", "link", "set", "eth0", "down")
    machine.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2", "net.ipv6.conf.eth0.addr_gen_mode=0")
    if pathlib.Path("/proc/sys/net/ipv6/conf/all/accept_ra_rt_info_max_plen").exists():
        machine.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128")
    machine.exec("ip", "link", "set", "eth0", "up")
    wait_for(lambda: machine.v6 in machine.exec("ip", "-6", "address", "show", "dev", "eth0").stdout, 10, "an address")
    routes = machine.exec("ip", "-6", "route").stdout
    assert f"default via {LINK_LOCAL}" in routes
    assert machine.reaches("fd00:9::1")
    text = machine.exec("rdisc6", "-1", "-n", "eth0").stdout
    assert re.search(r"Autonomous address conf\.:\s*Yes", text) and re.search(r"Stateful address conf\.\s*:\s*No", text)
    assert "2001:db8:7::/48" in text
    told = machine.dhclient("-4", want="BOUND", config=(
        "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n"
        "request subnet-mask, rfc3442-classless-static-routes;\n"))
    assert told["new_rfc3442_classless_static_routes"] == "0 10 9 0 1 25 198 51 100 0 10 9 0 1"
    assert "new_routers" not in told


def test_pods_ask_only_where_that_was_said(dhcp_lab):
    blue, own = dhcp_lab.pod("n1", "blue9", "blue"), None
    flags = {row["MAC"] if "MAC" in row else row["mac"]: row["flags"] for row in dhcp_lab.weft("n1", "vif")}
    assert "dhcp" not in flags[blue.mac]
    dhcp_lab.delete(blue)
    own = dhcp_lab.pod("n1", "self9", "self")
    flags = {row["MAC"] if "MAC" in row else row["mac"]: row["flags"] for row in dhcp_lab.weft("n1", "vif")}
    assert "dhcp" in flags[own.mac]
    output = own.exec("busybox", "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-s", "/bin/true")
    assert f"lease of {own.address(4)} obtained" in output.stderr + output.stdout
    dhcp_lab.delete(own)


SEND = """
import json, sys, time
from scapy.all import conf, Ether, sendp, AsyncSniffer, raw, wrpcap
conf.verb = 0
frames = [bytes.fromhex(text) for text in json.load(sys.stdin)]
sniffer = AsyncSniffer(iface="eth0", store=True, filter="inbound and (udp port 68 or udp port 546 or icmp6)")
sniffer.start()
time.sleep(0.5)
for frame in frames:
    sendp(Ether(frame), iface="eth0")
    time.sleep(0.02)
time.sleep(float(sys.argv[1]))
answers = sniffer.stop()
wrpcap(sys.argv[2], answers)
print(json.dumps([raw(answer).hex() for answer in answers]))
"""


def exchange(machine, frames, wait=0.5):
    """Sends frames from the machine; (what came back, a capture of that)."""
    import subprocess
    capture = machine.folder / f"answers{len(list(machine.folder.iterdir()))}.pcap"
    outcome = subprocess.run(
        ["ip", "netns", "exec", machine.namespace, "/usr/bin/python3", "-c", SEND, str(wait), str(capture)],
        input=json.dumps([bytes(frame).hex() for frame in frames]), capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    return [bytes.fromhex(text) for text in json.loads(outcome.stdout)], capture


def drops(lab):
    return {row["reason"]: row["count"] for row in lab.weft("n1", "drops")}


def questions(machine, **bootp):
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    def ask(*options, source="0.0.0.0", destination="255.255.255.255", mac=machine.hardware, to="ff:ff:ff:ff:ff:ff", **more):
        fields = {"chaddr": bytes.fromhex(machine.hardware.replace(":", "")), "xid": 7} | more
        return (Ether(src=mac, dst=to) / IP(src=source, dst=destination) / UDP(sport=68, dport=67) / BOOTP(**fields)
                / DHCP(options=[*options, "end"]))
    return ask


def answers_of(frames):
    """DHCP's kinds of answers, with the address, by transaction: {7: [("ack", "10.1.1.1")]}."""
    from scapy.layers.dhcp import BOOTP, DHCPTypes
    from scapy.layers.l2 import Ether
    result = {}
    for frame in frames:
        packet = Ether(frame)
        if packet.haslayer(BOOTP):
            kind = dict(option[:2] for option in packet["DHCP options"].options if isinstance(option, tuple))["message-type"]
            result.setdefault(packet[BOOTP].xid, []).append((DHCPTypes[kind], packet[BOOTP].yiaddr))
    return result


def test_odd_questions(machine):
    ask = questions(machine)
    mine = machine.v4
    rows = [
        ("renewing", ask(("message-type", "request"), source=mine, destination="10.1.0.1", to=ROUTER_MAC, ciaddr=mine),
         [("ack", mine)]),
        ("rebinding", ask(("message-type", "request"), source=mine, ciaddr=mine), [("ack", mine)]),
        ("another's address", ask(("message-type", "request"), ("requested_addr", "10.1.1.9")), [("nak", "0.0.0.0")]),
        ("another's, renewing", ask(("message-type", "request"), source="10.1.1.9", ciaddr="10.1.1.9"),
         [("nak", "0.0.0.0")]),
        ("another server", ask(("message-type", "request"), ("requested_addr", mine), ("server_id", "10.1.0.2")), []),
        ("inform", ask(("message-type", "inform"), source=mine, ciaddr=mine), [("ack", "0.0.0.0")]),
        ("rapid commit", ask(("message-type", "discover"), (80, b"")), [("ack", mine)]),
        ("BOOTP", ask(), []),
        ("relayed", ask(("message-type", "discover"), giaddr="10.1.0.5", hops=1), []),
        ("another's hardware", ask(("message-type", "discover"), chaddr=b"\2\0\0\0\x0d\x63"), []),
        ("from another MAC", ask(("message-type", "discover"), mac="02:00:00:00:0d:63"), []),
        ("decline", ask(("message-type", "decline"), ("requested_addr", mine)), []),
        ("release", ask(("message-type", "release"), source=mine, ciaddr=mine, destination="10.1.0.1", to=ROUTER_MAC), []),
    ]
    for number, (_, frame, _) in enumerate(rows):
        frame["BOOTP"].xid = number
    frames, _ = exchange(machine, [frame for _, frame, _ in rows])
    got = answers_of(frames)
    assert {name: got.get(number, []) for number, (name, _, _) in enumerate(rows)} == {
        name: expected for name, _, expected in rows}


def test_answers_have_nothing_that_tshark_objects_to(machine):
    from scapy.layers.dhcp6 import (
        DHCP6_Confirm, DHCP6_InfoRequest, DHCP6_Rebind, DHCP6_Solicit, DHCP6OptClientId, DHCP6OptElapsedTime,
        DHCP6OptIA_NA, DHCP6OptIA_PD, DHCP6OptIAAddress, DHCP6OptOptReq, DHCP6OptRapidCommit, DUID_LL)
    from scapy.layers.inet import UDP
    from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
    from scapy.layers.l2 import Ether
    ask = questions(machine)
    own = "fe80::ff:fe00:d01"
    client = DHCP6OptClientId(duid=DUID_LL(lladdr=machine.hardware))
    wants = DHCP6OptOptReq(reqopts=[23, 24, 31, 59, 32])

    def six(message, *options):
        packet = Ether(src=machine.hardware, dst="33:33:00:01:00:02") / IPv6(src=own, dst="ff02::1:2") / UDP(
            sport=546, dport=547) / message / client / DHCP6OptElapsedTime() / wants
        for option in options:
            packet = packet / option
        return packet
    association = DHCP6OptIA_NA(iaid=9)
    foreign = DHCP6OptIA_NA(iaid=9, ianaopts=[DHCP6OptIAAddress(addr="fd00:1::bad", preflft=1, validlft=2)])
    every = list(range(1, 255))
    frames, capture = exchange(machine, [
        ask(("message-type", "discover"), ("param_req_list", every)),
        ask(("message-type", "request"), ("requested_addr", machine.v4), ("max_dhcp_size", 1500), ("param_req_list", every)),
        ask(("message-type", "request"), ("requested_addr", "10.1.1.9")),
        six(DHCP6_Solicit(trid=1), association), six(DHCP6_Solicit(trid=2), association, DHCP6OptRapidCommit()),
        six(DHCP6_Solicit(trid=3), association, DHCP6OptIA_NA(iaid=10), DHCP6OptIA_PD(iaid=11)),
        six(DHCP6_Rebind(trid=4), foreign), six(DHCP6_Confirm(trid=5), foreign), six(DHCP6_InfoRequest(trid=6)),
        Ether(src=machine.hardware, dst="33:33:00:00:00:02") / IPv6(src=own, dst="ff02::2", hlim=255) / ICMPv6ND_RS()
        / ICMPv6NDOptSrcLLAddr(lladdr=machine.hardware),
    ], 1)
    fields = ["frame.number", "dhcp.option.dhcp", "dhcpv6.msgtype", "dhcpv6.xid", "icmpv6.type", "_ws.malformed",
              "_ws.expert.severity", "ip.checksum.status", "udp.checksum.status", "icmpv6.checksum.status"]
    command = ["tshark", "-n", "-r", capture, "-T", "fields", "-E", "separator=|"]
    for protocol in ("ip", "udp"):
        command += ["-o", f"{protocol}.check_checksum:TRUE"]
    for field in fields:
        command += ["-e", field]
    rows = [dict(zip(fields, line.split("|"))) for line in run(*command).stdout.splitlines()]
    for row in rows:
        assert row["_ws.malformed"] == "", row
        # Notes (2097152 is a chat, 4194304 a note) are no complaint; warnings and errors are.
        assert all(int(level) < 6291456 for level in row["_ws.expert.severity"].split(",") if level), row
        for field in ("ip.checksum.status", "udp.checksum.status", "icmpv6.checksum.status"):
            assert set(row[field].split(",")) <= {"", "1"}, row
    assert [row["dhcp.option.dhcp"] for row in rows if row["dhcp.option.dhcp"]] == ["2", "5", "6"]
    assert {(int(row["dhcpv6.xid"], 16), row["dhcpv6.msgtype"]) for row in rows if row["dhcpv6.xid"]} == {
        (1, "2"), (2, "7"), (3, "2"), (4, "7"), (5, "7"), (6, "7")}
    assert "134" in {row["icmpv6.type"] for row in rows}


def test_rogue_servers_and_routers_are_not_heard(machine, dhcp_lab):
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.dhcp6 import DHCP6_Advertise
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
    from scapy.layers.l2 import Ether
    before = drops(dhcp_lab)
    offer = IP(src=machine.v4, dst="255.255.255.255") / UDP(sport=67, dport=68) / BOOTP(op=2) / DHCP(
        options=[("message-type", "offer"), "end"])
    exchange(machine, [
        Ether(src=machine.hardware, dst="ff:ff:ff:ff:ff:ff") / offer,
        Ether(src=machine.hardware, dst=ROUTER_MAC) / IP(src=machine.v4, dst="10.1.1.200") / UDP(sport=67, dport=68) / b"x",
        Ether(src=machine.hardware, dst="33:33:00:00:00:01") / IPv6(src="fe80::ff:fe00:d01", dst="ff02::1") / UDP(
            sport=547, dport=546) / DHCP6_Advertise(),
        Ether(src=machine.hardware, dst="33:33:00:00:00:01") / IPv6(src="fe80::ff:fe00:d01", dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(),
    ])
    after = drops(dhcp_lab)
    assert after.get("rogue_dhcp", 0) - before.get("rogue_dhcp", 0) == 3
    assert after.get("rogue_router", 0) - before.get("rogue_router", 0) == 1


def test_one_that_asks_without_end_keeps_nobody_waiting(machine, dhcp_lab):
    other = Machine(dhcp_lab, 3)
    before = drops(dhcp_lab)
    flood = machine.start("/usr/bin/python3", "-c", (
        "import socket, time\n"
        f"frame = bytes.fromhex('{bytes(questions(machine)(('message-type', 'discover'))).hex()}')\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('eth0', 0))\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n    for _ in range(50): s.send(frame)\n    time.sleep(0.01)\n"))
    try:
        limited = lambda: drops(dhcp_lab).get("trap_rate", 0) > before.get("trap_rate", 0) + 200  # noqa: E731
        wait_for(limited, 10, "a limit")
        assert other.dhclient("-4", want="BOUND")["new_ip_address"] == other.v4
    finally:
        end(flood)
