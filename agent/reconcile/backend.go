//go:build linux

package reconcile

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/weftnet/weftnet/agent/desired/mesh"
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
	// refused says why a wish cannot be followed.
	refused string
	// announced are the endpoints that the peers have heard this node from.
	announced []netip.Addr
}

// decide follows the flag, whatever comes of it, then the MeshConfig, then what the kernel can do. Where that could not
// be found out, the choice that was made stays, and without one there is none. A wish for a WireGuard that the
// kernel lacks is a fault to be told, and no reason to take down the mesh that stands.
func (b *backend) decide(ctx context.Context, cfg Config, settings snapshot.Config) {
	wish, by := cfg.Backend, "the agent's --backend flag"
	if wish == "" {
		wish, by = settings.Backend, "the MeshConfig"
	}
	b.refused = ""
	if wish == backendUserspace {
		b.kind, b.reason = state.LinkTUN, "forced by "+by
		return
	}
	if wish == backendKernel && cfg.Backend != "" {
		b.kind, b.reason = state.LinkWireGuard, "forced by "+by
		return
	}
	b.ask(ctx, cfg)
	switch {
	case wish == backendKernel && b.probe.Answer == link.No:
		b.refused = "backend: Kernel cannot be had on every node: " + b.probe.Reason
		b.kind, b.reason = state.LinkTUN, "Userspace, though "+by+" asks for Kernel: "+b.probe.Reason
		return
	case wish == backendKernel:
		b.kind, b.reason = state.LinkWireGuard, "forced by "+by
		return
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

// problems are those of the MeshConfig.
func (b *backend) problems() []mesh.Problem {
	if b.refused == "" {
		return nil
	}
	return []mesh.Problem{{Kind: mesh.KindMeshConfig, Name: "default", Reason: mesh.ReasonBackend, Message: b.refused}}
}

// ask finds out once whether the kernel has WireGuard.
func (b *backend) ask(ctx context.Context, cfg Config) {
	if b.probe.Answer == link.Unknown {
		b.probe = cfg.Kernel.Link.ProbeWireGuard(ctx)
		cfg.Log.Info("looked for WireGuard in the kernel", "answer", b.probe.Answer.String(), "reason", b.probe.Reason)
	}
}
