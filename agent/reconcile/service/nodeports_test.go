//go:build linux

package service

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/listener"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// withNodePort wants NodePort 30080 of a protocol on two addresses.
func withNodePort(name string, proto uint8) desired.Wanted {
	svc := snapshot.Service{
		ServiceName: snapshot.ServiceName{Namespace: "web", Name: name},
		ClusterIPs:  []netip.Addr{netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("fd00:96::7")},
		Ports:       []snapshot.ServicePort{{Protocol: proto, Port: 80, NodePort: 30080}},
	}
	node := snapshot.ServiceNode{Name: "node1", NodePortIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
	return desired.For(svc, nil, node)
}

// TestClashes tells of processes that listen where a NodePort is, and of no others.
func TestClashes(t *testing.T) {
	for _, row := range []struct {
		protocol uint8
		address  string
		want     string
	}{
		{state.ProtoTCP, "0.0.0.0:30080", "0.0.0.0:30080, NodePort 30080/tcp: connections to 192.0.2.1 go to the Service"},
		{state.ProtoTCP, "[::]:30080", "[::]:30080, NodePort 30080/tcp: connections to 192.0.2.1 go"},
		{state.ProtoTCP, "192.0.2.1:30080", "192.0.2.1:30080, NodePort 30080/tcp: connections to 192.0.2.1 go"},
		{state.ProtoTCP, "[2001:db8::1]:30080", "[2001:db8::1]:30080, NodePort 30080/tcp: connections to 2001:db8::1 go"},
		{state.ProtoTCP, "127.0.0.1:30080", ""},
		{state.ProtoTCP, "[::1]:30080", ""},
		{state.ProtoTCP, "192.0.2.9:30080", ""}, // an address without node ports
		{state.ProtoTCP, "0.0.0.0:30081", ""},
		{state.ProtoUDP, "0.0.0.0:30080", ""},
	} {
		var faults error
		list := func(context.Context) ([]listener.Listener, error) {
			return []listener.Listener{{Protocol: row.protocol, Address: netip.MustParseAddrPort(row.address)}}, faults
		}
		p := NewNodePorts(list, slog.New(slog.DiscardHandler))
		if err := errors.Join(p.Put(t.Context(), []desired.Wanted{withNodePort("shop", state.ProtoTCP)}), p.look(t.Context())); err != nil {
			t.Fatal(err)
		}
		got := p.Problems()
		switch {
		case row.want == "" && len(got) != 0:
			t.Errorf("%s is in nobody's way, and is told: %v", row.address, got)
		case row.want != "" && (len(got) != 1 || got[0].Reason != ReasonNodePortInUse || got[0].Service.Name != "shop" || !strings.Contains(got[0].Text, row.want)):
			t.Errorf("%s: problems %v, want %q", row.address, got, row.want)
		}
		// What cannot be found out now is as it was; a Service that is gone clashes with nobody.
		faults = errors.New("not now")
		if err := p.look(t.Context()); err == nil || len(p.Problems()) != len(got) {
			t.Errorf("%s: %v, problems %v", row.address, err, p.Problems())
		}
		if err := errors.Join(p.Put(t.Context(), []desired.Wanted{{Service: snapshot.ServiceName{Namespace: "web", Name: "shop"}}}), p.look(t.Context())); err != nil || len(p.Problems()) != 0 {
			t.Errorf("%s: the Service is gone: %v, %v", row.address, err, p.Problems())
		}
	}
}
