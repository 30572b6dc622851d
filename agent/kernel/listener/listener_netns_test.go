//go:build netns

package listener

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

func TestList(t *testing.T) {
	ns := nstest.New(t)
	var k *Kernel
	var err error
	var opened []interface{ Close() error }
	ns.Do(t, func() {
		k, err = New()
		for _, a := range []string{"127.0.0.1:7001", "[::1]:7002", ":7003"} {
			l, fault := net.Listen("tcp", a)
			err = errors.Join(err, fault)
			opened = append(opened, l)
		}
		for _, a := range []string{"127.0.0.1:7004", "[::1]:7005"} {
			l, fault := net.ListenPacket("udp", a)
			err = errors.Join(err, fault)
			opened = append(opened, l)
		}
		c, fault := net.Dial("tcp", "127.0.0.1:7001") // a connection is no listener
		err = errors.Join(err, fault)
		opened = append(opened, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, o := range opened {
			_ = o.Close()
		}
		_ = k.Close()
	}()
	got, err := k.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Listener{
		{state.ProtoTCP, netip.MustParseAddrPort("127.0.0.1:7001")}, {state.ProtoTCP, netip.MustParseAddrPort("[::1]:7002")},
		{state.ProtoTCP, netip.MustParseAddrPort("[::]:7003")},
		{state.ProtoUDP, netip.MustParseAddrPort("127.0.0.1:7004")}, {state.ProtoUDP, netip.MustParseAddrPort("[::1]:7005")},
	}
	if len(got) != len(want) {
		t.Errorf("listeners are %v, want %v", got, want)
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%v is not among %v", w, got)
		}
	}
}
