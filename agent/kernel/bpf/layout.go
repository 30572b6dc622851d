//go:build linux

package bpf

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// The keys and values of the tables, field by field those of program/socket.c. The compiled program
// is little endian, as are the machines that it loads on; addresses and ports are in network order.
type (
	address struct {
		IP   [16]byte
		Port [2]byte
		Zero uint16
	}
	serviceValue struct {
		Frontend address
		Affinity uint32
		Group    uint64
		Pool     uint32
		Count    uint32
	}
	slotKey struct {
		Pool, Number uint32
	}
	endpointValue struct {
		At      slotKey
		Address address
		Zero    uint32
	}
	memberKey struct {
		Address address
		Pool    uint32
	}
)

func toAddress(a netip.AddrPort) address {
	out := address{IP: a.Addr().As16()}
	binary.BigEndian.PutUint16(out.Port[:], a.Port())
	return out
}

func (a address) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.IP).Unmap(), binary.BigEndian.Uint16(a.Port[:]))
}

func toService(p put) serviceValue {
	return serviceValue{Frontend: p.frontend, Affinity: p.affinity, Group: p.group, Pool: p.pool.id, Count: uint32(len(p.pool.endpoints))}
}

// stickiness is a frontend's affinity in seconds, and the number of its group.
func stickiness(f state.SocketFrontend) (seconds uint32, group uint64) {
	if f.Affinity == 0 {
		return 0, 0
	}
	return uint32(f.Affinity / time.Second), groupID(f.Group, state.FamilyOf(f.Address.Addr()))
}

// groupID is the same on every start of the agent, so that clients keep their endpoints. Were two
// groups to meet in one number, an endpoint remembered for one would not be a member of the other,
// and be chosen anew.
// The families of one group have endpoints of their own.
func groupID(name string, family state.Family) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(append([]byte(name), byte(family)))
	return h.Sum64()
}
