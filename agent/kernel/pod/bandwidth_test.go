//go:build linux

package pod

import (
	"math"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestBursts looks at how long a bucket that is full lets everything through.
func TestBursts(t *testing.T) {
	const rate, mtu = 20_000_000, 1440
	for _, row := range []struct {
		name        string
		rate, burst uint64
		wantBytes   float64
	}{
		{"none given", rate, 0, 250_000},
		{"half a second", rate, rate / 2, 1_250_000},
		{"what containerd gives for an annotation", rate, math.MaxUint32, 250_000},
		{"a slow Pod gets a whole segment", 80_000, 0, 64 << 10},
		{"less than a packet", rate, 8, mtu + etherHeader},
	} {
		got := tokens(row.rate, row.burst, mtu)
		bytes := float64(got.buffer) / netlink.TickInUsec() / 1e6 * float64(got.rate)
		if math.Abs(bytes-row.wantBytes) > row.wantBytes/100+1 {
			t.Errorf("%s: the bucket holds %.0f bytes, want %.0f", row.name, bytes, row.wantBytes)
		}
	}
}
