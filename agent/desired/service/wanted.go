// Package service says what the nftables table of the service proxy must hold. Table gives its fixed
// rules and the sets and maps with nothing in them; For turns one Service into the elements that it
// has there. Both are pure, and no Service depends on another but through Claims, which settles who
// has an address and port that several want.
package service

import (
	"net/netip"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// Wanted is what one Service asks of this node. All lists are sorted and unique.
type Wanted struct {
	Service snapshot.ServiceName
	Created time.Time
	// Frontends are all ways into the Service on this node: from them come the elements (Sets), the
	// balancing at the socket (Sockets), and what flows may be in connection tracking.
	Frontends []state.Frontend
	// ClusterIPs are addresses of which every port without a frontend is refused.
	ClusterIPs []netip.Addr
	// Local are the addresses of those endpoints that are Pods of this node: what one of them sends to
	// the Service may come back to itself.
	Local []netip.Addr
	// HealthCheck is nil where the Service needs none.
	HealthCheck *HealthCheck
	NoLocal     NoLocal
	Problems    []Problem
}

// HealthCheck is what answers on the node for load balancers outside.
type HealthCheck struct {
	// Addrs are those that NodePorts are open on, as with kube-proxy.
	Addrs []netip.Addr
	Port  uint16
	// LocalReady is the number of ready endpoints on this node: none means 503, else 200.
	LocalReady int
}

// Problem is something in a Service that cannot be done as asked. The rest of it is.
type Problem struct {
	Service snapshot.ServiceName
	// Reason is one word for events and metrics.
	Reason string
	// Text says what is wrong and what was done about it.
	Text string
}

// The reasons of problems.
const (
	ReasonUnreadable = "Unreadable"      // an address or range that is none
	ReasonConflict   = "AddressConflict" // another Service has the address and port
	ReasonInvalid    = "Invalid"         // a value that cannot be programmed
)
