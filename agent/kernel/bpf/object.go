//go:build linux

package bpf

import (
	"bytes"
	_ "embed" // the compiled programs
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// object is program/socket.c, compiled; `make generate` writes it.
//
//go:embed program/socket.o
var object []byte

// The tables, by their names in program/socket.c.
const (
	tableServices  = "services"
	tableEndpoints = "endpoints"
	tableMembers   = "members"
	tableAffinity  = "affinity"
	tableOrigins   = "origins"
	tableOutcomes  = "outcomes"
)

// lasting are the tables that stay when the others are made anew.
var lasting = []string{tableAffinity, tableOrigins, tableOutcomes}

// hook is a place where one of the programs is called.
type hook struct {
	program string
	attach  ebpf.AttachType
}

// hooks are in the order in which they are taken: who connects finds that its peer's name is told, and
// forgotten when the socket is closed.
var hooks = []hook{
	{"weft_peername4", ebpf.AttachCgroupInet4GetPeername},
	{"weft_peername6", ebpf.AttachCgroupInet6GetPeername},
	release,
	{"weft_connect4", ebpf.AttachCGroupInet4Connect},
	{"weft_connect6", ebpf.AttachCGroupInet6Connect},
}

// release is called when a socket is closed.
var release = hook{"weft_release", ebpf.AttachCgroupInetSockRelease}

// spec is what is the same on every kernel and for every number of Services.
func spec(room size, refuses bool) (*ebpf.CollectionSpec, error) {
	s, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read the compiled programs: %w", err)
	}
	s.Maps[tableServices].MaxEntries = room.services
	s.Maps[tableEndpoints].MaxEntries = room.endpoints
	s.Maps[tableMembers].MaxEntries = room.members
	if refuses {
		if err := s.Variables["can_refuse"].Set(uint32(1)); err != nil {
			return nil, fmt.Errorf("let the programs refuse: %w", err)
		}
	}
	return s, nil
}

// canRefuse asks whether a program may choose the error of connect: bpf_set_retval, Linux 5.18. When
// in doubt, refusing is left to nftables.
func canRefuse() bool {
	return features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil
}
