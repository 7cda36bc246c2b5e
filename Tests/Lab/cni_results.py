"""What a result of ADD looks like in each version of the CNI spec (SPEC.md of v0.3.0 to v1.1.0, "Result"), as a JSON
schema: nothing that a version does not know, and all that it demands."""
import jsonschema

MAC = {"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"}
IP = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
CIDR = {"type": "string", "pattern": "^[0-9a-f.:]+/[0-9]{1,3}$"}


def an_object(required, **properties):
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def schema(version):
    interface = {"name": {"type": "string", "minLength": 1}, "mac": MAC, "sandbox": {"type": "string"}}
    route = {"dst": CIDR, "gw": IP}
    ip = {"address": CIDR, "gateway": IP, "interface": {"type": "integer", "minimum": 0}}
    needs = ["address"]
    if version < "1.0.0":
        ip["version"] = {"enum": ["4", "6"]}
        needs.append("version")
    if version >= "1.1.0":
        number = {"type": "integer", "minimum": 0}
        interface |= {"mtu": number, "socketPath": {"type": "string"}, "pciID": {"type": "string"}}
        route |= {"mtu": number, "advmss": number, "priority": number, "table": number, "scope": number}
    texts = {"type": "array", "items": {"type": "string"}}
    return an_object(
        ["cniVersion"], cniVersion={"const": version},
        interfaces={"type": "array", "items": an_object(["name"], **interface)},
        ips={"type": "array", "items": an_object(needs, **ip)},
        routes={"type": "array", "items": an_object(["dst"], **route)},
        dns=an_object([], nameservers={"type": "array", "items": IP}, domain={"type": "string"}, search=texts, options=texts))


def check(result, version):
    jsonschema.validate(result, schema(version), format_checker=jsonschema.FormatChecker())
    for ip in result.get("ips", []):
        assert 0 <= ip.get("interface", 0) < len(result["interfaces"])
        assert ip.get("version", "6" if ":" in ip["address"] else "4") == ("6" if ":" in ip["address"] else "4")
