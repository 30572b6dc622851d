//go:build linux && bench

// Package samenode measures Pod to Pod on one node: as Weftnet wires it, beside the reference plugin
// ptp with host-local and kube-proxy in nftables mode, in turn. The Services are the same, and both nodes
// track connections.
package samenode

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/weftnet/weftnet/test/bench/lab"
	"github.com/weftnet/weftnet/test/bench/table"
)

// rounds are many and short: on a machine that others use, too, the median of many ratios is steady
// where few long runs are not.
var rounds = flag.Int("rounds", 8, "how often each figure is taken, on both sides in turn")

// target is from the issue that asked for this benchmark: no slower than the reference.
const target = 1.0

func TestSameNode(t *testing.T) { beside(t, "off") }

// TestSameNodeFast is the same with the fast path for established connections and echoes.
func TestSameNodeFast(t *testing.T) { beside(t, "auto") }

func beside(t *testing.T, fastPath string) {
	t.Helper()
	l := lab.New(t)
	services := createServices(t, l)
	ours, theirs := weftnet(t, l, services, fastPath), reference(t, l, services)
	for _, family := range []string{"IPv4", "IPv6"} {
		rows := []table.Row{
			{Name: "TCP, 1 stream", Unit: "Gbit/s", Target: target},
			{Name: "TCP, 4 streams", Unit: "Gbit/s", Target: target},
			{Name: "64-byte UDP received", Unit: "packets/s", Target: target},
			// Without the fast path echoes go through every rule, of which the reference has kube-proxy's alone. On it one
			// of them does in a second.
			{Name: "ICMP round trip, p50", Unit: "us", LessIsBetter: true, Target: target},
			{Name: "UDP round trip, p50", Unit: "us", LessIsBetter: true, Target: target},
		}
		for round := range *rounds {
			for i, measure := range []measurement{oneStream, fourStreams, smallPackets, roundTrip, exchange} {
				inTurn(t, &rows[i], round, measure, ours, theirs, family)
			}
		}
		title := fmt.Sprintf("Same node, %s, fast path %s, %d rounds in turn, medians", family, fastPath, *rounds)
		table.Print(os.Stdout, title, "Pod to Pod", "ptp + kube-proxy", rows)
	}
	for _, s := range []*side{ours, theirs} {
		s.assertTracked(t)
		if err := s.rulesInForce(t); err != nil {
			t.Error(err)
		}
	}
}

type measurement func(ctx context.Context, s *side, to netip.Addr) (float64, error)

// inTurn measures both sides; who goes first changes from round to round.
func inTurn(t *testing.T, row *table.Row, round int, measure measurement, ours, theirs *side, family string) {
	t.Helper()
	one := func(s *side, into *[]float64) {
		value, err := measure(t.Context(), s, s.address[family])
		if err != nil {
			t.Fatalf("%s: %s over %s: %v", s.name, row.Name, family, err)
		}
		*into = append(*into, value)
	}
	if round%2 == 0 {
		one(ours, &row.Ours)
		one(theirs, &row.Theirs)
		return
	}
	one(theirs, &row.Theirs)
	one(ours, &row.Ours)
}
