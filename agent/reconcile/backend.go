//go:build linux

package reconcile

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// The wishes for a backend, as the API writes them.
const (
	backendKernel    = "Kernel"
	backendUserspace = "Userspace"
)

// backend is the choice between the kernel's WireGuard and wireguard-go.
type backend struct {
	kind   state.LinkKind
	reason string
	probe  link.Probe
	// announced are the endpoints that the peers have heard this node from.
	announced []netip.Addr
}

// decide follows the flag, then the MeshConfig, then what the kernel can do. Where that could not
// be found out, the choice that was made stays, and without one there is none.
func (b *backend) decide(ctx context.Context, cfg Config, settings snapshot.Config) {
	wish, by := cfg.Backend, "the agent's --backend flag"
	if wish == "" {
		wish, by = settings.Backend, "the MeshConfig"
	}
	switch wish {
	case backendKernel:
		b.kind, b.reason = state.LinkWireGuard, "forced by "+by
		return
	case backendUserspace:
		b.kind, b.reason = state.LinkTUN, "forced by "+by
		return
	}
	if b.probe.Answer == link.Unknown {
		b.probe = cfg.Kernel.Link.ProbeWireGuard(ctx)
		cfg.Log.Info("looked for WireGuard in the kernel", "answer", b.probe.Answer.String(), "reason", b.probe.Reason)
	}
	switch b.probe.Answer {
	case link.Yes:
		b.kind, b.reason = state.LinkWireGuard, b.probe.Reason
	case link.No:
		b.kind, b.reason = state.LinkTUN, b.probe.Reason
	case link.Unknown:
		b.reason = fmt.Sprintf("could not tell whether the kernel has WireGuard: %s", b.probe.Reason)
	}
}
