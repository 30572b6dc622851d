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

// Comments gives the comments of every chain's rules, in their order, by the name of the chain. A table
// that does not exist has none.
func (k *Kernel) Comments(ctx context.Context) (map[string][]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	replies, err := k.conn.query(unix.NFT_MSG_GETRULE, families[k.family], true, wire.Str(unix.NFTA_RULE_TABLE, k.name))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	out := map[string][]string{}
	for _, r := range replies {
		attrs := payload(r)
		if wire.String(wire.Find(attrs, unix.NFTA_RULE_TABLE)) != k.name {
			continue
		}
		chain := wire.String(wire.Find(attrs, unix.NFTA_RULE_CHAIN))
		if c := wire.String(findUdata(wire.Find(attrs, unix.NFTA_RULE_USERDATA), udataRuleComment)); c != "" {
			out[chain] = append(out[chain], c)
		}
	}
	return out, nil
}

// Elements lists the elements of one set or map, none where it does not exist.
func (k *Kernel) Elements(ctx context.Context, set string) ([]state.Element, error) {
	o, err := k.Observe(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range o.Sets {
		if s.Head.name == set {
			return s.Elements, nil
		}
	}
	return nil, nil
}
