//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// ElementCounters reads what the elements of a set have counted, by key. A set that does not exist
// has none.
func (k *Kernel) ElementCounters(ctx context.Context, set string) (map[state.Value]Counter, error) {
	var last error
	for range maxObserveTries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		counters, err := k.conn.elementCounters(families[k.family], k.name, set)
		if !errors.Is(err, wire.ErrInterrupted) {
			return counters, err
		}
		last = err
	}
	return nil, last
}

func (c *conn) elementCounters(family byte, table, set string) (map[state.Value]Counter, error) {
	replies, err := c.query(unix.NFT_MSG_GETSETELEM, family, true,
		wire.Str(unix.NFTA_SET_ELEM_LIST_TABLE, table), wire.Str(unix.NFTA_SET_ELEM_LIST_SET, set))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list elements of %s: %w", set, err)
	}
	out := map[state.Value]Counter{}
	for _, r := range replies {
		for _, e := range wire.Parse(wire.Find(payload(r), unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			attrs := wire.Parse(e.Data)
			key := state.Value(wire.Find(wire.Parse(wire.Find(attrs, unix.NFTA_SET_ELEM_KEY)), unix.NFTA_DATA_VALUE))
			expression := wire.Parse(wire.Find(attrs, unix.NFTA_SET_ELEM_EXPR))
			data := wire.Parse(wire.Find(expression, unix.NFTA_EXPR_DATA))
			out[key] = Counter{
				Packets: wire.BigUint64(wire.Find(data, unix.NFTA_COUNTER_PACKETS)), Bytes: wire.BigUint64(wire.Find(data, unix.NFTA_COUNTER_BYTES)),
			}
		}
	}
	return out, nil
}
