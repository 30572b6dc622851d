package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func between(level Level, a, b side, do, format string, args ...any) Finding {
	return Finding{Level: level, About: a.name + " <-> " + b.name, Text: fmt.Sprintf(format, args...), Do: do}
}

// both returns the two MeshNodes, if both exist.
func both(a, b side) (x, y *v1alpha1.MeshNode, ok bool) {
	x, y = a.mesh.MeshNode(a.name), b.mesh.MeshNode(b.name)
	return x, y, x != nil && y != nil
}

func sameKey(a, b side) []Finding {
	x, y, ok := both(a, b)
	if !ok || x.Status.PublicKey == "" || x.Status.PublicKey != y.Status.PublicKey {
		return nil
	}
	return []Finding{between(Broken, a, b, "one is a copy of the other's disk: on it stop the agent, run `weft cleanup --state`, and start the agent again",
		"both have published the same key, and WireGuard cannot tell them apart")}
}

func families(a, b side) []Finding {
	x, y, ok := both(a, b)
	if !ok || len(x.Status.Endpoints) == 0 || len(y.Status.Endpoints) == 0 {
		return nil
	}
	for _, is4 := range []bool{true, false} {
		if hasFamily(x.Status.Endpoints, is4) && hasFamily(y.Status.Endpoints, is4) {
			return nil
		}
	}
	return []Finding{between(Broken, a, b, "give both nodes an address of one family (kubelet --node-ip)",
		"they have no address family in common: %v and %v", x.Status.Endpoints, y.Status.Endpoints)}
}

func hasFamily(addresses []string, is4 bool) bool {
	return slices.ContainsFunc(addresses, func(text string) bool {
		addr, err := netip.ParseAddr(text)
		return err == nil && addr.Unmap().Is4() == is4
	})
}

func overlap(a, b side) []Finding {
	x, y, ok := both(a, b)
	if !ok {
		return nil
	}
	var found []Finding
	for _, one := range x.Spec.PodCIDRs {
		for _, two := range y.Spec.PodCIDRs {
			p, errP := netip.ParsePrefix(one)
			q, errQ := netip.ParsePrefix(two)
			if errP == nil && errQ == nil && p.Overlaps(q) {
				found = append(found, between(Broken, a, b, "the operator never allocates so: a MeshNode was edited by hand; see its events",
					"their Pod CIDRs overlap: %s and %s", one, two))
			}
		}
	}
	for _, ip := range x.Spec.NodeIPs {
		if slices.Contains(y.Spec.NodeIPs, ip) {
			found = append(found, between(Broken, a, b, "see the addresses in `kubectl get nodes -o wide`", "both claim the node address %s", ip))
		}
	}
	return found
}

func mtu(a, b side) []Finding {
	x, y, ok := both(a, b)
	if !ok || x.Status.MTU == 0 || y.Status.MTU == 0 || x.Status.MTU == y.Status.MTU {
		return nil
	}
	return []Finding{between(Suspect, a, b, "if large packets vanish, set the smaller one for all: MeshConfig default, spec.mtu",
		"their mesh MTU differs: %d and %d bytes; TCP adapts, large UDP datagrams may not", x.Status.MTU, y.Status.MTU)}
}
