"""Who may reach whom under NetworkPolicies: a small evaluator of what the Kubernetes documentation says of them."""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network


@dataclass(frozen=True)
class End:
    """A pod, by its namespace, its labels and its namespace's, or with no namespace an address outside the cluster."""

    namespace: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    of_namespace: dict[str, str] = field(default_factory=dict)
    ip: str = "10.244.0.77"


def allowed(policies: list[dict], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Both sides must allow it: the policies that select the source, and those that select the target."""
    return _side(policies, "Egress", source, target, port, protocol) and _side(
        policies, "Ingress", target, source, port, protocol
    )


def _side(policies: list[dict], direction: str, here: End, there: End, port: int, protocol: str) -> bool:
    selecting = [p["spec"] for p in policies if direction in p["spec"]["policyTypes"] and _selected(p, here)]
    if not selecting:
        return True
    peers_of = {"Egress": "to", "Ingress": "from"}[direction]
    return any(
        _port(rule, port, protocol) and _peer(rule.get(peers_of), there, here.namespace)
        for spec in selecting
        for rule in spec.get(direction.lower(), [])
    )


def _selected(policy: dict, end: End) -> bool:
    return end.namespace == policy["metadata"]["namespace"] and _matches(policy["spec"]["podSelector"], end.labels)


def _port(rule: dict, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(p.get("port", port) == port and p.get("protocol", "TCP") == protocol for p in ports)


def _peer(peers: list[dict] | None, end: End, policy_namespace: str) -> bool:
    return not peers or any(_one_peer(peer, end, policy_namespace) for peer in peers)


def _one_peer(peer: dict, end: End, policy_namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        address = ip_address(end.ip)
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(e) for e in block.get("except", [])
        )
    if end.namespace is None:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": end.namespace} | end.of_namespace
        namespace_fits = _matches(peer["namespaceSelector"], labels)
    else:
        namespace_fits = end.namespace == policy_namespace
    return namespace_fits and _matches(peer.get("podSelector", {}), end.labels)


def _matches(selector: dict, labels: dict[str, str]) -> bool:
    def holds(expression: dict) -> bool:
        has, value = expression["key"] in labels, labels.get(expression["key"])
        return {
            "In": value in expression.get("values", []),
            "NotIn": value not in expression.get("values", []),
            "Exists": has,
            "DoesNotExist": not has,
        }[expression["operator"]]

    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        holds(e) for e in selector.get("matchExpressions", [])
    )
