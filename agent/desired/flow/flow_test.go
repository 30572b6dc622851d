package flow

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

func attachment(link string, addrs ...string) state.Attachment {
	a := state.Attachment{HostLink: link, ContainerID: "c-" + link, MTU: 1440}
	for _, text := range addrs {
		a.Addresses = append(a.Addresses, netip.MustParseAddr(text))
	}
	return a
}

func link(name string, index, mtu int, queued bool) state.FlowLink {
	return state.FlowLink{Name: name, Index: index, MTU: mtu, Place: true, Queued: queued}
}

func TestPlan(t *testing.T) {
	limited, unknown, small := attachment("weftp3", "10.244.1.3"), attachment("weftp4", "10.244.1.4"), attachment("weftp7", "10.244.1.7")
	limited.Bandwidth.EgressRate = 1_000_000
	unknown.ContainerID = ""
	small.MTU = 1280
	in := Input{
		Attachments: []state.Attachment{
			attachment("weftp2", "10.244.1.2", "fd00::2"), limited, unknown,
			attachment("weftp5", "10.244.1.5"), attachment("weftp6", "10.244.1.6"), small,
			attachment("weftp8", "10.244.1.8", "10.244.1.9"), attachment("weftp9", "10.244.1.9"),
		},
		Links: []state.FlowLink{
			link("weftp2", 12, 1440, false), link("weftp3", 13, 1440, false), link("weftp4", 14, 1440, false), link("weftp5", 15, 1440, true),
			link("weftp7", 17, 1440, false), link("weftp8", 18, 1400, false), link("weftp9", 19, 1440, false), link("weftp99", 99, 1440, false),
			{Name: "weftp6", Index: 16, MTU: 1440}, // no place for the program
		},
	}
	const want = "{[12 17 18] [10.244.1.2 dev weftp2(12) mtu 1440 10.244.1.7 dev weftp7(17) mtu 1280 10.244.1.8 dev weftp8(18) mtu 1400 fd00::2 dev weftp2(12) mtu 1440]}"
	if got := fmt.Sprint(Plan(in)); got != want {
		t.Errorf("plan %s\nwant %s", got, want)
	}
	slices.Reverse(in.Attachments)
	slices.Reverse(in.Links)
	if got := fmt.Sprint(Plan(in)); got != want {
		t.Errorf("in another order: %s", got)
	}
}

func TestFreshFor(t *testing.T) {
	all := Tracking{Established: 120 * time.Hour, UDP: 30 * time.Second, UDPStream: 2 * time.Minute}
	if got := FreshFor(all); got != (state.FlowFresh{UDP: 15 * time.Second, UDPStream: time.Minute, Echo: time.Second}) {
		t.Errorf("not liberal: %v", got)
	}
	all.Liberal = true
	if got := FreshFor(all); got != (state.FlowFresh{TCP: 60 * time.Hour, UDP: 15 * time.Second, UDPStream: time.Minute, Echo: time.Second}) {
		t.Errorf("liberal: %v", got)
	}
}
