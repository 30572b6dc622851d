//go:build linux && bench

// Package policy measures what policies cost a packet: the rules that Weftnet makes, in the kernel, with and
// without policies in turn.
package policy

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/weftnet/weftnet/test/bench/table"
	"github.com/weftnet/weftnet/test/nstest"
)

// rounds are many and short: on a machine that others use, too, the median of many ratios is steady
// where few long runs are not.
var rounds = flag.Int("rounds", 8, "rounds of each measurement")

// The targets are from the issue that asked for this benchmark: no policy, within three parts of a hundred.
const target = 0.97

// way is one that packets take to the server.
type way struct {
	name     string
	from     func(*node) *nstest.Namespace
	to       netip.Addr
	sameNode bool
}

var ways = []way{
	{"same node, IPv4", func(n *node) *nstest.Namespace { return n.client }, server.v4, true},
	{"same node, IPv6", func(n *node) *nstest.Namespace { return n.client }, server.v6, true},
	{"through a tunnel, IPv4", func(n *node) *nstest.Namespace { return n.outside }, server.v4, false},
}

type measurement func(ctx context.Context, from *nstest.Namespace, to netip.Addr) (float64, error)

// TestCostOfPolicies has every packet meet the rules: nodes whose fast path is off or cannot be.
func TestCostOfPolicies(t *testing.T) { costs(t, false, ways) }

// TestCostOnTheFastPath has the packets of established connections between Pods of a node pass them by, as is the default.
func TestCostOnTheFastPath(t *testing.T) {
	costs(t, true, slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return !w.sameNode }))
}

func costs(t *testing.T, fast bool, ways []way) {
	t.Helper()
	none := newNode(t, shape{name: "no policy"}, fast)
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			some := newNode(t, s, fast)
			for _, w := range ways {
				title := fmt.Sprintf("%s; %s; fast path: %t; %d rounds in turn, medians", s.name, w.name, fast, *rounds)
				table.Print(os.Stdout, title, "policies", "none", compare(t, w, some, none))
			}
			some.passedBy()
			none.passedBy()
		})
	}
}

func compare(t *testing.T, w way, some, none *node) []table.Row {
	t.Helper()
	rows := []table.Row{
		{Name: "TCP, 1 stream", Unit: "Gbit/s", Target: target},
		{Name: "64-byte UDP received", Unit: "1,000 packets/s", Target: target},
		{Name: "round trip, p50", Unit: "us", LessIsBetter: true, Target: 1 / target},
		{Name: "new connections", Unit: "1,000/s"},
	}
	for i, measure := range []measurement{stream, smallPackets, roundTrip, connections} {
		for round := range *rounds {
			inTurn(t, &rows[i], round, measure, w, some, none)
		}
	}
	return rows
}

// inTurn measures both sides; who goes first changes from round to round.
func inTurn(t *testing.T, row *table.Row, round int, measure measurement, w way, some, none *node) {
	t.Helper()
	one := func(n *node, into *[]float64) {
		value, err := measure(t.Context(), w.from(n), w.to)
		if err != nil {
			t.Fatalf("%s: %s, %s: %v", n.name, row.Name, w.name, err)
		}
		*into = append(*into, value)
	}
	if round%2 == 0 {
		one(some, &row.Ours)
		one(none, &row.Theirs)
		return
	}
	one(none, &row.Theirs)
	one(some, &row.Ours)
}
