package harness

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/weftnet/weftnet/test/testbed/audit"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

// underlayBridge and uplink are the testbed's names.
const (
	underlayBridge = "tb-br0"
	uplink         = "eth0"
)

// SparePodCIDRs are the ranges for pools that a test adds: the leak audit knows them.
func SparePodCIDRs() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd00:10:245::/48")}
}

// StartAudit listens on the underlay for packets that carry a Pod or mesh address in the clear. The
// mesh addresses lie in the Pod CIDRs. It listens for both families, also where the cluster has one: a packet of
// the other has no business there either.
func (c *Cluster) StartAudit(ctx context.Context) (*audit.Audit, error) {
	a, err := audit.Start(ctx, audit.Config{
		Link: underlayBridge, Prefixes: slices.Concat(layout.PodCIDRs(layout.Dual), SparePodCIDRs()), Probes: probePlaces,
	})
	if err != nil {
		return nil, fmt.Errorf("start the leak audit: %w", err)
	}
	return a, nil
}

// probePlaces are the nodes that exist now.
func probePlaces() []audit.Probe {
	paths, _ := filepath.Glob("/run/netns/" + layout.NodePrefix + "*") // errs on a bad pattern only
	var places []audit.Probe
	for _, path := range paths {
		places = append(places, audit.Probe{NetNS: filepath.Base(path), Link: uplink})
	}
	return places
}
