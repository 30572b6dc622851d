//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weftnet/agent/state"
)

// batch is the number of elements in one system call.
const batch = 4096

// tables are one set of programs and what they read.
type tables struct {
	*ebpf.Collection
	room size
}

// roomFor is the size of new tables: twice what is needed, so that they are made anew after doubling
// at the earliest. An empty place costs 16 bytes of the kernel's memory at most.
func roomFor(need size) size {
	const least = 1024
	return size{
		services:  max(least, 2*need.services),
		endpoints: max(least, 2*need.endpoints),
		members:   max(least, 2*need.members),
	}
}

// makeTables loads the programs with tables of their own, beside the lasting ones.
func makeTables(room size, refuses bool, keep map[string]*ebpf.Map) (*tables, error) {
	s, err := spec(room, refuses)
	if err != nil {
		return nil, err
	}
	c, err := ebpf.NewCollectionWithOptions(s, ebpf.CollectionOptions{MapReplacements: keep})
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	return &tables{Collection: c, room: room}, nil
}

// write carries a change out, in its order.
func (t *tables) write(ctx context.Context, c change) error {
	for _, step := range []func(change) error{t.addPools, t.put, t.remove, t.removePools} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(c); err != nil {
			return err
		}
	}
	return nil
}

func (t *tables) addPools(c change) error {
	var slots elements[slotKey, endpointValue]
	var members elements[memberKey, uint32]
	for _, p := range c.addPools {
		for i, e := range p.endpoints {
			at := slotKey{p.id, uint32(i)}
			slots.add(at, endpointValue{At: at, Address: toAddress(e)})
			if p.sticky {
				members.add(memberKey{toAddress(e), p.id}, uint32(i))
			}
		}
	}
	return errors.Join(slots.put(t.Maps[tableEndpoints]), members.put(t.Maps[tableMembers]))
}

func (t *tables) put(c change) error {
	var services elements[address, serviceValue]
	for _, p := range c.put {
		services.add(p.frontend, toService(p))
	}
	return services.put(t.Maps[tableServices])
}

func (t *tables) remove(c change) error {
	return remove(t.Maps[tableServices], c.remove)
}

func (t *tables) removePools(c change) error {
	var slots []slotKey
	var members []memberKey
	for _, p := range c.removePools {
		for i, e := range p.endpoints {
			slots = append(slots, slotKey{p.id, uint32(i)})
			if p.sticky {
				members = append(members, memberKey{toAddress(e), p.id})
			}
		}
	}
	return errors.Join(remove(t.Maps[tableEndpoints], slots), remove(t.Maps[tableMembers], members))
}

// elements are written in batches.
type elements[K, V any] struct {
	keys   []K
	values []V
}

func (e *elements[K, V]) add(k K, v V) { e.keys, e.values = append(e.keys, k), append(e.values, v) }

func (e *elements[K, V]) put(m *ebpf.Map) error {
	if len(e.keys) == 1 {
		return wrap("put into", m, m.Update(e.keys[0], e.values[0], ebpf.UpdateAny))
	}
	for from := 0; from < len(e.keys); from += batch {
		to := min(from+batch, len(e.keys))
		if _, err := m.BatchUpdate(e.keys[from:to], e.values[from:to], nil); err != nil {
			return wrap("put into", m, err)
		}
	}
	return nil
}

// remove takes what is gone already for removed. One by one, since a batch ends at the first such.
func remove[K any](m *ebpf.Map, keys []K) error {
	for _, k := range keys {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return wrap("remove from", m, err)
		}
	}
	return nil
}

// forget empties the table of what sockets have asked for: some of them may have been closed while
// nobody watched, and their places would be lost. The others tell their endpoint from now on.
func forget(origins *ebpf.Map) error {
	var cookies []uint64
	var cookie uint64
	var value [2]address
	it := origins.Iterate()
	for it.Next(&cookie, &value) {
		cookies = append(cookies, cookie)
	}
	return errors.Join(wrap("list", origins, it.Err()), remove(origins, cookies))
}

func wrap(what string, m *ebpf.Map, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, m, err)
}

// read lists the frontends that the tables hold, sorted; the groups' names are not in them.
func (t *tables) read(ctx context.Context) ([]state.SocketFrontend, error) {
	endpoints := map[slotKey]netip.AddrPort{}
	var slot slotKey
	var endpoint endpointValue
	for it := t.Maps[tableEndpoints].Iterate(); it.Next(&slot, &endpoint); {
		endpoints[slot] = endpoint.Address.addrPort()
	}
	var out []state.SocketFrontend
	var key address
	var value serviceValue
	it := t.Maps[tableServices].Iterate()
	for it.Next(&key, &value) {
		f := state.SocketFrontend{Address: key.addrPort(), Affinity: time.Duration(value.Affinity) * time.Second}
		for i := range value.Count {
			f.Endpoints = append(f.Endpoints, endpoints[slotKey{value.Pool, i}])
		}
		out = append(out, f)
	}
	slices.SortFunc(out, state.CompareSocketFrontends)
	return out, errors.Join(wrap("list", t.Maps[tableServices], it.Err()), ctx.Err())
}
