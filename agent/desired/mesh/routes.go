package mesh

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	// metricUnreachable puts the refusal of unknown Pod addresses beneath every other route.
	metricUnreachable = 9999
	// priorityPods is that of the rule by which Pods reach Pods through the main table, with no look at
	// the table below: one lookup less for nearly every packet. priorityNodes is that of the rule that
	// sends Pod traffic for other nodes into the tunnel.
	priorityPods  = 8700
	priorityNodes = 8701
)

// The overhead of WireGuard in bytes: outer IP header, 8 of UDP, 32 of WireGuard.
const (
	overhead4 = 20 + 8 + 32
	overhead6 = 40 + 8 + 32
)

const (
	// minMTU is the least that IPv6 works with (RFC 8200, section 5).
	minMTU = 1280
	// defaultUplinkMTU is assumed while no uplink is known.
	defaultUplinkMTU = 1500
)

// mtuOf is what fits through the uplink, less the tunnel's overhead for the families in use, or
// the user's choice where that fits.
func mtuOf(in Input, inUse []state.Family, faults *problems) int {
	f, uplink := in.Facts, in.Facts.UplinkMTU
	if uplink == 0 {
		uplink = defaultUplinkMTU
	}
	overhead := overhead4
	only6 := len(f.Endpoints) > 0 && !slices.ContainsFunc(f.Endpoints, netip.Addr.Is4)
	if slices.Contains(inUse, state.IPv6) || (len(inUse) == 0 && only6) {
		overhead = overhead6
	}
	fits := max(uplink-overhead, minMTU)
	if uplink-overhead < minMTU {
		faults.add(KindMeshNode, in.Snapshot.Self, ReasonInvalidMTU,
			"the uplink's MTU of %d leaves %d to the tunnel, and IPv6 needs %d: large packets will be lost or fragmented", uplink, uplink-overhead, minMTU)
	}
	want := int(in.Snapshot.Config.MTU)
	switch {
	case want == 0:
		return fits
	case want < minMTU:
		faults.add(KindMeshConfig, "default", ReasonInvalidMTU, "mtu: %d is less than the %d that IPv6 needs; using %d", want, minMTU, fits)
		return fits
	case want > fits:
		faults.add(KindMeshConfig, "default", ReasonInvalidMTU, "mtu: %d does not fit through this node's uplink (MTU %d less %d of tunnel); using %d", want, uplink, overhead, fits)
		return fits
	default:
		return want
	}
}

// routesOf sends the blocks of every peer and, for Pods, its node addresses into the tunnel, and
// refuses the rest of the pools, which would otherwise take the default route in the clear.
func routesOf(own Own, pools []netip.Prefix, others []*member, device string) []state.Route {
	var out []state.Route
	for _, m := range others {
		if !m.isPeer() {
			continue
		}
		for _, p := range m.podCIDRs {
			out = append(out, state.Route{Dst: p, Dev: device, Src: sourceFor(own, p), MTU: routeMTU(own, m)})
		}
		for _, a := range m.nodeIPs {
			out = append(out, state.Route{Table: state.TableWeft, Dst: hostPrefix(a), Dev: device, MTU: routeMTU(own, m)})
		}
	}
	for _, p := range pools {
		out = append(out, state.Route{Dst: p, Type: state.Unreachable, Metric: metricUnreachable})
	}
	return state.SortRoutes(out)
}

// routeMTU bounds what is sent to a peer with a smaller uplink than ours.
func routeMTU(own Own, m *member) uint32 {
	if m.MTU >= minMTU && int(m.MTU) < own.MTU {
		return uint32(m.MTU)
	}
	return 0
}

// sourceFor is the mesh address that this node's own traffic to the prefix comes from.
func sourceFor(own Own, p netip.Prefix) netip.Addr {
	for _, a := range own.MeshIPs {
		if a.Is4() == p.Addr().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func rulesOf(own Own, pools []netip.Prefix) []state.Rule {
	var out []state.Rule
	for _, p := range own.PodCIDRs {
		for _, pool := range pools {
			if pool.Addr().Is4() == p.Addr().Is4() {
				out = append(out, state.Rule{Priority: priorityPods, From: p, To: pool, Table: state.TableMain})
			}
		}
		out = append(out, state.Rule{Priority: priorityNodes, From: p, Table: state.TableWeft})
	}
	return state.SortRules(out)
}

// nodeSysctls let the node forward, without losing the router advertisements it lives on.
func nodeSysctls(f facts.Facts) []state.Sysctl {
	out := []state.Sysctl{{Path: "ipv4/ip_forward", Value: "1"}}
	if f.IPv6 {
		out = append(out, state.Sysctl{Path: "ipv6/conf/all/forwarding", Value: "1"})
		for _, link := range f.KeepRA {
			out = append(out, state.Sysctl{Path: "ipv6/conf/" + link + "/accept_ra", Value: "2"})
		}
	}
	return state.SortSysctls(out)
}

// deviceSysctls: a packet's way back may lead through another device than it came by while a key
// is replaced, so the reverse path filter is loose (RFC 3704, section 2.4).
func deviceSysctls(devices []Device, f facts.Facts) []state.Sysctl {
	var out []state.Sysctl
	for _, d := range devices {
		v4, v6 := "ipv4/conf/"+d.Link.Name+"/", "ipv6/conf/"+d.Link.Name+"/"
		out = append(out, state.Sysctl{Path: v4 + "rp_filter", Value: "2"}, state.Sysctl{Path: v4 + "forwarding", Value: "1"})
		if f.IPv6 {
			out = append(out, state.Sysctl{Path: v6 + "disable_ipv6", Value: "0"},
				state.Sysctl{Path: v6 + "accept_ra", Value: "0"}, state.Sysctl{Path: v6 + "forwarding", Value: "1"})
		}
	}
	return state.SortSysctls(out)
}

// SettingsOf picks the settings of one device.
func SettingsOf(all []state.Sysctl, device string) []state.Sysctl {
	var out []state.Sysctl
	for _, s := range all {
		if strings.Contains(s.Path, "/conf/"+device+"/") {
			out = append(out, s)
		}
	}
	return out
}
