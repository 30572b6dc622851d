package source

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func nodeFrom(object any) (snapshot.Node, bool) {
	n, ok := object.(*v1alpha1.MeshNode)
	if !ok {
		return snapshot.Node{}, false
	}
	return snapshot.Node{
		Name: n.Name, Created: n.CreationTimestamp.UTC(), Generation: n.Generation,
		PodCIDRs: n.Spec.PodCIDRs, MeshIPs: n.Spec.MeshIPs, NodeIPs: n.Spec.NodeIPs,
		PublicKey: n.Status.PublicKey, KeyEpoch: n.Status.KeyEpoch, Endpoints: n.Status.Endpoints,
		ListenPort: n.Status.ListenPort, MTU: n.Status.MTU, NATPeers: n.Status.NATPeers,
	}, true
}

// poolFrom takes the ranges that the operator has accepted. A range may hold addresses that are not
// Pods', and then the node would keep those off the underlay: its own, or the API server's.
func poolFrom(object any) (snapshot.Pool, bool) {
	p, ok := object.(*v1alpha1.IPPool)
	if !ok {
		return snapshot.Pool{}, false
	}
	out := snapshot.Pool{Name: p.Name}
	for _, c := range p.Spec.CIDRs {
		accepted := func(u v1alpha1.PoolUsage) bool { return u.CIDR == c.CIDR && u.Refused == "" }
		if slices.ContainsFunc(p.Status.Usage, accepted) {
			out.CIDRs = append(out.CIDRs, c.CIDR)
		}
	}
	return out, true
}

// defaultConfig is what the schema's defaults are: a cluster without a MeshConfig works.
func defaultConfig() snapshot.Config {
	return snapshot.Config{
		ListenPort: snapshot.DefaultListenPort, Keepalive: snapshot.DefaultKeepalive,
		Backend: string(v1alpha1.BackendAuto), ServiceProxy: snapshot.DefaultServiceConfig(),
	}
}

func configFrom(object any) (snapshot.Config, bool) {
	c, ok := object.(*v1alpha1.MeshConfig)
	if !ok {
		return snapshot.Config{}, false
	}
	out := defaultConfig()
	out.MTU, out.NoMasqueradeCIDRs = c.Spec.MTU, c.Spec.NoMasqueradeCIDRs
	if c.Spec.ListenPort != 0 {
		out.ListenPort = c.Spec.ListenPort
	}
	if c.Spec.Keepalive != nil {
		out.Keepalive = c.Spec.Keepalive.Duration
	}
	if c.Spec.Backend != "" {
		out.Backend = string(c.Spec.Backend)
	}
	out.ServiceProxy = serviceConfigFrom(c.Spec.ServiceProxy)
	out.Policy = snapshot.PolicyConfig{LogDenied: string(c.Spec.Policy.LogDenied), LogRate: c.Spec.Policy.LogRate}
	return out, true
}

func serviceConfigFrom(s v1alpha1.ServiceProxySettings) snapshot.ServiceConfig {
	out := snapshot.DefaultServiceConfig()
	for _, text := range s.NodePortAddresses {
		if p, err := netip.ParsePrefix(text); err == nil { // the schema lets nothing else through but "primary"
			out.NodePortAddresses = append(out.NodePortAddresses, p.Masked())
		}
	}
	c := s.Conntrack
	out.TCPBeLiberal = c.TCPBeLiberal
	if c.MaxPerCore != nil {
		out.ConntrackMaxPerCore = int64(*c.MaxPerCore)
	}
	if c.Min != nil {
		out.ConntrackMin = int64(*c.Min)
	}
	if c.TCPEstablishedTimeout != nil {
		out.TCPEstablished = c.TCPEstablishedTimeout.Duration
	}
	if c.TCPCloseWaitTimeout != nil {
		out.TCPCloseWait = c.TCPCloseWaitTimeout.Duration
	}
	return out
}

// addresses are those of a Node, by type, in its order.
type addresses struct{ internal, external []netip.Addr }

func (a addresses) empty() bool { return len(a.internal) == 0 && len(a.external) == 0 }

func addressesFrom(object any) (addresses, bool) {
	n, ok := object.(*corev1.Node)
	if !ok {
		return addresses{}, false
	}
	var out addresses
	for _, a := range n.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue // a host name, or what a cloud provider puts in its place
		}
		switch a.Type {
		case corev1.NodeInternalIP:
			out.internal = append(out.internal, addr.Unmap())
		case corev1.NodeExternalIP:
			out.external = append(out.external, addr.Unmap())
		case corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS:
		}
	}
	return out, true
}
