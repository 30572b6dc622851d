//go:build linux

package route

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// TestDecodeRoute reads what encodeRoute has written, with links that know the route's and with links that do not.
func TestDecodeRoute(t *testing.T) {
	const index = 7
	links := map[uint32]string{1: "lo", index: "weftp5"}
	without := map[uint32]string{1: "lo"}
	for _, r := range []state.Route{
		{Dst: pfx("10.244.1.5/32"), Dev: "weftp5"},
		{Dst: pfx("fd00:10:244:1::5/128"), Dev: "weftp5"},
	} {
		b := encodeRoute(r, index)
		if got, ok := decodeRoute(b, links); !ok || !got.Equal(r) {
			t.Errorf("%s is read as %s, %v", r, got, ok)
		}
		// Without its link it would be another's, or, deleted, anybody's to the same destination.
		if got, ok := decodeRoute(b, without); ok {
			t.Errorf("%s without its link is read as %s", r, got)
		}
		b[offsetProtocol] = unix.RTPROT_STATIC
		if got, ok := decodeRoute(b, links); ok {
			t.Errorf("a stranger's route is read as %s", got)
		}
	}
	for _, dst := range []string{"10.244.0.0/16", "fd00:10:244::/48"} {
		r := state.Route{Dst: pfx(dst), Type: state.Unreachable, Metric: 9999}
		for _, out := range []uint32{0, 1} { // the kernel names lo for IPv6
			if got, ok := decodeRoute(encodeRoute(r, out), links); !ok || !got.Equal(r) {
				t.Errorf("%s through link %d is read as %s, %v", r, out, got, ok)
			}
		}
	}
}
