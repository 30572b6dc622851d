package harness

import (
	"net/netip"
	"testing"
	"time"
)

func TestParseAnswer(t *testing.T) {
	for _, row := range []struct {
		line string
		seen netip.Addr
		took time.Duration
	}{
		{"10.244.1.2:4711 0.001500", netip.MustParseAddr("10.244.1.2"), 1500 * time.Microsecond},
		{"[fd00:10:244:1::2]:4711 0.5", netip.MustParseAddr("fd00:10:244:1::2"), 500 * time.Millisecond},
		{"[::ffff:10.244.1.2]:4711 0.5", netip.MustParseAddr("10.244.1.2"), 500 * time.Millisecond},
		{"none 0", netip.Addr{}, 0},
		{"10.244.1.2:4711 soon", netip.Addr{}, 0},
	} {
		seen, took := parseAnswer(row.line)
		if seen != row.seen || took != row.took {
			t.Errorf("parseAnswer(%q) = %v, %v; want %v, %v", row.line, seen, took, row.seen, row.took)
		}
	}
}

func TestParseOverruns(t *testing.T) {
	const counters = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 7 0 102\nUdpLite: InDatagrams\nUdpLite: 0\nUdp6InDatagrams  9\nUdp6RcvbufErrors  452\n"
	v4, v6, err := ParseOverruns(counters)
	if v4 != 102 || v6 != 452 || err != nil {
		t.Errorf("ParseOverruns = %d, %d, %v; want 102, 452", v4, v6, err)
	}
	if _, _, err := ParseOverruns("Udp: InDatagrams\nUdp: 7\n"); err == nil {
		t.Error("counters that are not there were read")
	}
}
