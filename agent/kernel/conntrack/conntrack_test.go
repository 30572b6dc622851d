//go:build linux

package conntrack

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
)

func TestMatch(t *testing.T) {
	ap := netip.MustParseAddrPort
	flow := func(src, dst, replySrc, replyDst string) Flow {
		return Flow{
			Original: Tuple{Src: ap(src), Dst: ap(dst), Protocol: state.ProtoUDP},
			Reply:    Tuple{Src: ap(replySrc), Dst: ap(replyDst), Protocol: state.ProtoUDP},
		}
	}
	toNode4 := flow("192.0.2.1:999", "10.200.0.11:53", "10.200.0.11:53", "192.0.2.1:999")
	toPod4 := flow("192.0.2.1:999", "10.200.0.11:53", "10.244.1.5:5353", "192.0.2.1:999")
	masked4 := flow("10.244.1.5:999", "192.0.2.1:53", "192.0.2.1:53", "10.200.0.11:4000")
	toNode6 := flow("[2001:db8::1]:999", "[fd00:c8::11]:53", "[fd00:c8::11]:53", "[2001:db8::1]:999")
	toPod6 := flow("[2001:db8::1]:999", "[fd00:c8::11]:53", "[fd00:10:244:1::5]:5353", "[2001:db8::1]:999")
	pod4, pod6 := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("fd00:10:244:1::5")
	none := netip.Addr{}
	for name, row := range map[string]struct {
		filter Filter
		want   []Flow
	}{
		"opened 4":             {HostPortOpened(53, none, pod4), []Flow{toNode4}},
		"opened 6":             {HostPortOpened(53, none, pod6), []Flow{toNode6}},
		"opened on an address": {HostPortOpened(53, netip.MustParseAddr("10.200.0.11"), pod4), []Flow{toNode4}},
		"opened on another":    {HostPortOpened(53, netip.MustParseAddr("10.200.0.12"), pod4), nil},
		"opened on all":        {HostPortOpened(53, netip.MustParseAddr("::"), pod6), []Flow{toNode6}},
		"opened another port":  {HostPortOpened(54, none, pod4), nil},
		"closed 4":             {HostPortClosed(53, pod4), []Flow{toPod4}},
		"closed 6":             {HostPortClosed(53, pod6), []Flow{toPod6}},
		"by protocol":          {Filter{Protocol: state.ProtoTCP}, nil},
		"by source":            {Filter{Src: pod4}, []Flow{masked4}},
		"by answering port":    {Filter{ReplyPort: 5353}, []Flow{toPod4, toPod6}},
	} {
		var got []Flow
		for _, f := range []Flow{toNode4, toPod4, masked4, toNode6, toPod6} {
			if row.filter.Match(f) {
				got = append(got, f)
			}
		}
		if len(got) != len(row.want) {
			t.Errorf("%s: matches %v, want %v", name, got, row.want)
			continue
		}
		for i := range got {
			if got[i] != row.want[i] {
				t.Errorf("%s: matches %v, want %v", name, got[i], row.want[i])
			}
		}
	}
}
