//go:build linux

package nflog

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
)

func TestDecode(t *testing.T) {
	// An IPv4 header with one word of options, UDP 4096 -> 53.
	v4 := "46000020 00000000 40110000 0a000001 0a000002 01010101 10000035 00080000"
	// IPv6: hop-by-hop options, then TCP 256 -> 443.
	v6 := "60000000 00100040 fd000000000000000000000000000001 fd000000000000000000000000000002 0600010400000000 010001bb"
	// IPv6, a later fragment of UDP: its ports are unknown.
	fragment := "60000000 00102c40 fd000000000000000000000000000001 fd000000000000000000000000000002 1100000900000001 ffffffff"
	ping := "60000000 00083a40 fd000000000000000000000000000001 fd000000000000000000000000000002 8000000000000000"
	for _, c := range []struct {
		text     string
		protocol uint8
		src, dst string
		icmp     uint8
	}{
		{v4, unix.IPPROTO_UDP, "10.0.0.1:4096", "10.0.0.2:53", 0},
		{v6, unix.IPPROTO_TCP, "[fd00::1]:256", "[fd00::2]:443", 0},
		{fragment, unix.IPPROTO_UDP, "[fd00::1]:0", "[fd00::2]:0", 0},
		{ping, unix.IPPROTO_ICMPV6, "[fd00::1]:0", "[fd00::2]:0", 128},
	} {
		payload, err := hex.DecodeString(strings.ReplaceAll(c.text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got := decode([]wire.Attr{wire.Str(attrPrefix, "p"), wire.Big32(attrInDev, 7), wire.Bytes(attrPayload, payload)})
		want := Packet{Prefix: "p", Protocol: c.protocol, Src: netip.MustParseAddrPort(c.src), Dst: netip.MustParseAddrPort(c.dst), Type: c.icmp, InLink: 7}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

// FuzzDecode looks for a packet on which reading fails: Pods choose what is in it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 0})
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_HOPOPTS, 0}, make([]byte, 40)...))
	f.Fuzz(func(_ *testing.T, b []byte) { decode([]wire.Attr{wire.Bytes(attrPayload, b)}) })
}
