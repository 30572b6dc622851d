//go:build linux

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Stats are figures for metrics.
type Stats struct {
	// Connections that were given an endpoint, refused for lack of one, and left to nftables because
	// the tables changed again and again while they were read.
	Balanced, Refused, Unsure uint64
	// Unnamed were given an endpoint, and getpeername tells that: so many sockets are connected to
	// Services that there was no room to note the Service. Balanced does not count them.
	Unnamed uint64
	// What the tables hold.
	Frontends, Endpoints int
}

// Stats reads the counters, which survive the agent.
func (k *Kernel) Stats() (Stats, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Stats{Frontends: int(k.ledger.size.services), Endpoints: int(k.ledger.size.endpoints)}
	var faults []error
	for i, to := range []*uint64{&s.Balanced, &s.Refused, &s.Unsure, &s.Unnamed} {
		n, err := sum(k.lasting[tableOutcomes], uint32(i))
		faults = append(faults, err)
		*to = n
	}
	return s, errors.Join(faults...)
}

// sum adds up what each CPU has counted.
func sum(m *ebpf.Map, key uint32) (uint64, error) {
	var perCPU []uint64
	if err := m.Lookup(key, &perCPU); err != nil {
		return 0, fmt.Errorf("read the counters: %w", err)
	}
	var total uint64
	for _, n := range perCPU {
		total += n
	}
	return total, nil
}
