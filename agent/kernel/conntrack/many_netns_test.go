//go:build netns

package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestManyFlows looks at a table as a flood of connections leaves it: what that takes of memory does not
// grow with the table, whether few flows are wanted or all.
func TestManyFlows(t *testing.T) {
	const flows = 40_000 // of each family
	k := full(t, flows)
	few := []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}
	none := []netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("fd10::1")}
	for name, row := range map[string]struct {
		addrs []netip.Addr
		want  int
		each  uint64 // bytes a flow may take
	}{
		"none": {none, 0, 8},
		"few":  {few, 2, 8},
		"all":  {nil, 2*flows + 2, 256},
	} {
		found, most := 0, 0
		allocated, live := memory(func() {
			err := k.Visit(t.Context(), row.addrs, func(f []Tracked) error {
				found, most = found+len(f), max(most, len(f))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %d flows of %d, no more than %d at a time; %d KiB allocated, heap %d KiB larger", name, found, 2*flows+2, most, allocated>>10, live>>10)
		if found != row.want || most > batchSize {
			t.Errorf("%s: %d flows found, want %d; %d at a time", name, found, row.want, most)
		}
		if limit := row.each*2*flows + 1<<20; allocated > limit {
			t.Errorf("%s: %d bytes allocated, want fewer than %d", name, allocated, limit)
		}
	}
	var deleted int
	var err error
	allocated, _ := memory(func() {
		deleted, err = k.DeleteWhere(t.Context(), state.ProtoUDP, func(f Flow) bool { return f.Original.Src.Addr() == few[0] })
	})
	if err != nil || deleted != 1 || allocated > 8*2*flows+1<<20 {
		t.Errorf("%d flows deleted, %d bytes allocated, error %v", deleted, allocated, err)
	}
}

// memory is what f allocates, and what is left of it at its end before anybody clears up.
func memory(f func()) (allocated uint64, live int64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// BenchmarkVisit passes over a table of 200,000 flows, and tells how large the process has been.
func BenchmarkVisit(b *testing.B) {
	k := full(b, 100_000)
	addrs := []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}
	b.ReportAllocs()
	for b.Loop() {
		if err := k.Visit(b.Context(), addrs, func([]Tracked) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kib, _ := strconv.Atoi(f[1])
			b.ReportMetric(float64(kib)/1024, "peak-MiB")
		}
	}
}

// full makes a namespace with so many UDP flows in each family, and one more of each from another address.
func full(t testing.TB, flows int) *Kernel {
	t.Helper()
	ns := nstest.New(t)
	var k *Kernel
	ns.Do(t, func() {
		// Conntrack begins to look when a rule needs it.
		out, err := exec.Command("nft", "table inet t {\n chain c {\n type filter hook output priority 0; ct state new accept\n }\n }\n").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if k, err = New(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = k.Close() })
	for _, base := range []string{"10.8.0.0", "fd08::"} {
		addr := netip.MustParseAddr(base).AsSlice()
		for i := range flows {
			binary.BigEndian.PutUint16(addr[len(addr)-2:], uint16(i/60_000))
			src, _ := netip.AddrFromSlice(addr)
			make1(t, k, src, uint16(i%60_000)+1)
		}
	}
	for _, src := range []string{"10.9.0.1", "fd09::1"} {
		make1(t, k, netip.MustParseAddr(src), 1)
	}
	return k
}

// make1 makes the entry of a flow of which one packet has been seen.
func make1(t testing.TB, k *Kernel, src netip.Addr, port uint16) {
	t.Helper()
	const ctaTimeout, seconds = 7, 600
	family, dst := byte(unix.AF_INET), netip.MustParseAddr("10.7.0.1")
	if src.Is6() {
		family, dst = unix.AF_INET6, netip.MustParseAddr("fd07::1")
	}
	from, to := netip.AddrPortFrom(src, port), netip.AddrPortFrom(dst, 7000)
	f := Flow{Original: Tuple{from, to, state.ProtoUDP}, Reply: Tuple{to, from, state.ProtoUDP}}
	request := wire.Put(append([]byte{family, unix.NFNETLINK_V0, 0, 0}, tuples(f)...), wire.Big32(ctaTimeout, seconds))
	if _, err := k.conn.Do(subsystem|msgNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, request); err != nil {
		t.Fatal(fmt.Errorf("make flow %s: %w", f, err))
	}
}
