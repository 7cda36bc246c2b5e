"""A kubelet's part against a real containerd: the calls of CRI's RuntimeService (runtime.v1) that make and remove a pod's
sandbox. Messages are put together by hand, field number by field number (k8s.io/cri-api, runtime/v1/api.proto), so that
no generated code is needed."""
import uuid

import grpc


def varint(value):
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded) + bytes([value])


def field(number, value):
    """A field of wire type 0 (numbers) or 2 (text, messages)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def mapping(number, values):
    return b"".join(field(number, field(1, key) + field(2, value)) for key, value in values.items())


def fields(message):
    """The top level of a message: (number, value) pairs."""
    position, found = 0, []

    def number():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = number()
        if tag & 7 == 0:
            found.append((tag >> 3, number()))
        else:
            length = number()
            found.append((tag >> 3, message[position:position + length]))
            position += length
    return found


class Sandboxes:
    """Pod sandboxes of the containerd behind a Unix socket."""

    def __init__(self, socket):
        self.channel = grpc.insecure_channel(f"unix://{socket}")

    def call(self, method, request):
        stub = self.channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}", request_serializer=bytes, response_deserializer=bytes)
        return stub(request, timeout=60)

    def run(self, name, namespace="default", ports=(), annotations={}, logs="/tmp"):
        """RunPodSandbox; the sandbox's id. `ports` are (node's, container's)."""
        config = field(1, field(1, name) + field(2, str(uuid.uuid4())) + field(3, namespace) + field(4, 0))
        config += field(2, name) + field(3, str(logs)) + field(4, field(1, "10.96.0.10") + field(2, "cluster.local"))
        for node_port, container_port in ports:
            config += field(5, field(1, 0) + field(2, container_port) + field(3, node_port))
        config += mapping(6, {"app": name}) + mapping(7, annotations) + field(8, b"")
        return dict(fields(self.call("RunPodSandbox", field(1, config))))[1].decode()

    def address(self, sandbox):
        """PodSandboxStatus: the addresses that the runtime took from the result."""
        status = dict(fields(dict(fields(self.call("PodSandboxStatus", field(1, sandbox))))[1]))
        network = fields(status[5])
        return [dict(network)[1].decode()] + [dict(fields(more))[1].decode() for number, more in network if number == 2]

    def stop(self, sandbox):
        self.call("StopPodSandbox", field(1, sandbox))

    def remove(self, sandbox):
        self.call("RemovePodSandbox", field(1, sandbox))

    def close(self):
        self.channel.close()
