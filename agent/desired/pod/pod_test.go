package pod

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
)

func attachment(i int, ports ...state.HostPort) state.Attachment {
	return state.Attachment{
		HostLink: fmt.Sprintf("weftp%010d", i), HostPorts: ports,
		Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.244.1.%d", i)), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:1::%x", i))},
	}
}

func TestRoutesOnlyWhereTheLinkIs(t *testing.T) {
	out := Plan(Input{
		Attachments: []state.Attachment{attachment(3), attachment(2)},
		Links:       []string{"weft0", "weftp0000000002", "weftp0000000009"},
	})
	var got []string
	for _, r := range out.Routes {
		got = append(got, r.String())
	}
	want := []string{
		"10.244.1.2/32 dev weftp0000000002 proto 87 scope link",
		"fd00:10:244:1::2/128 dev weftp0000000002 proto 87 metric 1024",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestHostPortsByFamily(t *testing.T) {
	a := attachment(2,
		state.HostPort{Protocol: state.TCP, HostPort: 80, ContainerPort: 8080},
		state.HostPort{Protocol: state.UDP, HostIP: netip.MustParseAddr("::"), HostPort: 53, ContainerPort: 5353},
		state.HostPort{Protocol: state.TCP, HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 443, ContainerPort: 8443},
	)
	var got []string
	for _, h := range Plan(Input{Attachments: []state.Attachment{a}}).HostPorts {
		got = append(got, fmt.Sprintf("%d %v:%d -> %v:%d", h.Protocol, h.HostIP, h.Port, h.PodIP, h.PodPort))
	}
	want := []string{
		"6 invalid IP:80 -> 10.244.1.2:8080", "6 invalid IP:80 -> fd00:10:244:1::2:8080",
		"6 192.0.2.1:443 -> 10.244.1.2:8443", "17 :::53 -> fd00:10:244:1::2:5353",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOrderAndRepetitionDoNotMatter(t *testing.T) {
	port := state.HostPort{Protocol: state.TCP, HostPort: 80, ContainerPort: 8080}
	in := Input{Attachments: []state.Attachment{attachment(2, port), attachment(3)}, Links: []string{"weftp0000000002", "weftp0000000003"}}
	other := Input{Attachments: []state.Attachment{attachment(3), attachment(2, port, port), attachment(3)}, Links: []string{"weftp0000000003", "weftp0000000002"}}
	if a, b := Plan(in), Plan(other); !reflect.DeepEqual(a, b) {
		t.Errorf("got %v and %v", a, b)
	}
}
