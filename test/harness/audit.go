package harness

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/weftnet/weftnet/test/testbed/audit"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

// underlayBridge and uplink are the testbed's names.
const (
	underlayBridge = "tb-br0"
	uplink         = "eth0"
)

// StartAudit listens on the underlay for packets that carry a Pod or mesh address in the clear. The
// mesh addresses lie in the Pod CIDRs.
func (c *Cluster) StartAudit(ctx context.Context) (*audit.Audit, error) {
	a, err := audit.Start(ctx, audit.Config{
		Link: underlayBridge, Prefixes: layout.PodCIDRs(layout.Dual), Probes: probePlaces,
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
