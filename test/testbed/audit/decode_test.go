package audit

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	pods  = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
	nodes = []netip.Addr{netip.MustParseAddr("10.200.0.11"), netip.MustParseAddr("10.200.0.12"), netip.MustParseAddr("fd00:c8::11"), netip.MustParseAddr("fd00:c8::12")}
	pod4  = netip.MustParseAddr("10.244.1.2")
	pod6  = netip.MustParseAddr("fd00:10:244:1::2")
)

func ether(kind uint16, payload []byte) []byte {
	// A bridge drops what has no proper source.
	header := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	return append(binary.BigEndian.AppendUint16(header, kind), payload...)
}

func ip(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	if src.Is4() {
		return append(headerIPv4(src, dst, proto, len(payload)), payload...)
	}
	h := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	h = append(append(h, proto, 64), src.AsSlice()...)
	return append(append(h, dst.AsSlice()...), payload...)
}

func frame(packet []byte) []byte {
	if packet[0]>>4 == 4 {
		return ether(etherIPv4, packet)
	}
	return ether(etherIPv6, packet)
}

func udp(from, to uint16, payload []byte) []byte {
	h := binary.BigEndian.AppendUint16(nil, from)
	h = binary.BigEndian.AppendUint16(h, to)
	return append(append(h, 0, 0, 0, 0), payload...)
}

func arp(sender, target netip.Addr) []byte {
	m := append([]byte{0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0}, sender.AsSlice()...)
	return ether(etherARP, append(append(m, 0, 0, 0, 0, 0, 0), target.AsSlice()...))
}

func icmp(kind byte, rest []byte) []byte { return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, rest...) }

// neighbor is a neighbour message: its target comes after 8 octets.
func neighbor(kind byte, target netip.Addr) []byte { return icmp(kind, target.AsSlice()) }

func TestFrames(t *testing.T) {
	n4, m4, n6, m6 := nodes[0], nodes[1], nodes[2], nodes[3]
	wg := udp(51820, 51820, []byte{4, 0, 0, 0, 1, 2, 3, 4})
	tests := []struct {
		name string
		data []byte
		kind Kind
		leak bool
	}{
		{"wireguard over IPv4", frame(ip(n4, m4, protoUDP, wg)), WireGuard, false},
		{"wireguard over IPv6", frame(ip(n6, m6, protoUDP, wg)), WireGuard, false},
		{"not wireguard on its port", frame(ip(n4, m4, protoUDP, udp(51820, 51820, []byte{9, 0, 0, 0}))), UDP, false},
		{"tcp between nodes", frame(ip(n6, m6, protoTCP, udp(1, 2, nil))), TCP, false},
		{"from a Pod, IPv4", frame(ip(pod4, m4, protoTCP, udp(1, 2, nil))), TCP, true},
		{"to a Pod, IPv4", frame(ip(n4, pod4, protoUDP, udp(1, 2, nil))), UDP, true},
		{"from a Pod, IPv6", frame(ip(pod6, m6, protoTCP, udp(1, 2, nil))), TCP, true},
		{"to a Pod, IPv6", frame(ip(n6, pod6, 132, nil)), OtherIP, true},
		{"wireguard from a Pod", frame(ip(pod4, m4, protoUDP, wg)), WireGuard, true},
		{"a later fragment", frame(fragment4(ip(pod4, m4, protoUDP, []byte{1}))), OtherIP, true},
		{"a later fragment of a mesh packet", frame(fragment4(ip(n4, m4, protoUDP, wg))), OtherIP, false},
		{"extension headers", frame(ip(n6, pod6, 0, append([]byte{60, 0, 0, 0, 0, 0, 0, 0, 17, 1}, append(make([]byte, 14), wg...)...))), WireGuard, true},
		{"a broken extension header", frame(ip(n6, pod6, 0, []byte{60, 9, 0, 0, 0, 0, 0, 0})), Malformed, true},
		{"wireguard behind a fragment header", frame(ip(n6, m6, protoFragment, append([]byte{17, 0, 0, 1, 0, 0, 0, 0}, wg...))), WireGuard, false},
		{"tagged", ether(etherVLAN, append(binary.BigEndian.AppendUint16([]byte{0, 7}, etherIPv4), ip(pod4, m4, protoTCP, nil)...)), TCP, true},
		{"tagged twice", ether(etherQinQ, append([]byte{0, 7, 0x81, 0, 0, 8, 0x86, 0xdd}, ip(n6, m6, protoTCP, nil)...)), TCP, false},
		{"unreachable quoting a Pod, IPv4", frame(ip(n4, m4, protoICMP, icmp(3, ip(n4, pod4, protoUDP, nil)))), ICMP, true},
		{"unreachable quoting nodes, IPv4", frame(ip(n4, m4, protoICMP, icmp(3, ip(m4, n4, protoUDP, nil)))), ICMP, false},
		{"time exceeded quoting a Pod, IPv6", frame(ip(n6, m6, protoICMPv6, icmp(3, ip(pod6, n6, protoUDP, nil)))), ICMP, true},
		{"echo whose data looks like a quote", frame(ip(n4, m4, protoICMP, icmp(8, ip(n4, pod4, protoUDP, nil)))), ICMP, false},
		{"redirect to a Pod", frame(ip(n4, m4, protoICMP, append([]byte{5, 0, 0, 0, 10, 244, 1, 2}, ip(n4, m4, 6, nil)...))), ICMP, true},
		{"tunnel with a Pod inside", frame(ip(n4, m4, protoIPIP, ip(n4, pod4, protoUDP, nil))), OtherIP, true},
		{"IPv6 in IPv4 with a Pod inside", frame(ip(n4, m4, protoIPv6, ip(pod6, n6, protoUDP, nil))), OtherIP, true},
		{"arp for a Pod", arp(n4, pod4), ARP, true},
		{"arp from a Pod", arp(pod4, n4), ARP, true},
		{"arp between nodes", arp(n4, m4), ARP, false},
		{"solicitation for a Pod", frame(ip(n6, m6, protoICMPv6, neighbor(135, pod6))), NDP, true},
		{"advertisement for a node", frame(ip(n6, m6, protoICMPv6, neighbor(136, m6))), NDP, false},
		{"redirect for a Pod, IPv6", frame(ip(n6, m6, protoICMPv6, icmp(137, append(m6.AsSlice(), pod6.AsSlice()...)))), NDP, true},
		{"another protocol", ether(0x88cc, []byte{1, 2, 3}), Other, false},
		{"too short", []byte{1, 2, 3}, Malformed, false},
		{"no header in it", ether(etherIPv4, []byte{0x45}), Malformed, false},
		{"header length beyond the end", ether(etherIPv4, append([]byte{0x4f}, make([]byte, 19)...)), Malformed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := newJudge(pods, 51820, nil, time.Time{})
			j.see(time.Unix(1, 0), tt.data, len(tt.data))
			r := j.snapshot(time.Unix(2, 0))
			if r.Kinds[tt.kind] != 1 {
				t.Errorf("kind: got %v, want %s", r.Kinds, tt.kind)
			}
			if leak := r.LeakedPackets == 1; leak != tt.leak {
				t.Errorf("leak: got %v: %v", leak, r.Leaks)
			}
			if tt.leak && (r.Err() == nil || r.LeakedBytes != uint64(len(tt.data))) {
				t.Errorf("a leak of %d bytes: %v", r.LeakedBytes, r.Err())
			}
		})
	}
}

func fragment4(packet []byte) []byte {
	out := slices.Clone(packet)
	binary.BigEndian.PutUint16(out[6:], 185)
	return out
}

func TestLeakSaysWhatItWas(t *testing.T) {
	j := newJudge(pods, 51820, nil, time.Time{})
	j.see(time.Unix(1, 500000), frame(ip(pod4, nodes[1], protoTCP, udp(1234, 80, nil))), 1500)
	want := "00:00:01.000500 tcp 10.244.1.2:1234 > 10.200.0.12:80, 1500 bytes, gives away 10.244.1.2"
	if got := j.report.Leaks[0].String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLeaksAreCountedBeyondThoseKept(t *testing.T) {
	j := newJudge(pods, 51820, nil, time.Time{})
	data := frame(ip(pod6, nodes[3], protoTCP, nil))
	for range keepLeaks + 7 {
		j.see(time.Time{}, data, len(data))
	}
	if j.report.LeakedPackets != keepLeaks+7 || len(j.report.Leaks) != keepLeaks {
		t.Errorf("counted %d, kept %d", j.report.LeakedPackets, len(j.report.Leaks))
	}
}

func TestOwnPackets(t *testing.T) {
	proof := newProof()
	j := newJudge(pods, 51820, proof, time.Time{})
	for _, prefix := range append(slices.Clone(pods), netip.MustParsePrefix("192.0.2.0/24")) {
		data := clearFrame(prefix, append(slices.Clone(proof), prefix.String()...))
		j.see(time.Time{}, data, len(data))
		j.see(time.Time{}, data, len(data)) // a copy proves nothing more
	}
	r := j.snapshot(time.Time{})
	if r.Proofs != 2 || r.LeakedPackets != 0 || r.Packets != 0 {
		t.Errorf("proofs %d, leaks %d, packets %d", r.Proofs, r.LeakedPackets, r.Packets)
	}
	other := newJudge(pods, 51820, newProof(), time.Time{})
	data := clearFrame(pods[0], proof)
	other.see(time.Time{}, data, len(data))
	if other.report.LeakedPackets != 1 {
		t.Error("another audit's packet is not a leak")
	}
}

func TestValid(t *testing.T) {
	for name, r := range map[string]Report{
		"dropped": {Dropped: 1}, "proof missing": {Wanted: 2, Proofs: 1}, "fault": {Faults: []string{"x"}},
	} {
		if r.Valid() == nil || r.Err() == nil {
			t.Errorf("%s: valid", name)
		}
	}
	if err := (Report{Wanted: 2, Proofs: 2}).Err(); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(frame(ip(pod4, nodes[1], protoICMP, icmp(3, ip(nodes[0], pod4, protoUDP, udp(1, 2, nil))))))
	f.Add(frame(ip(pod6, nodes[3], protoICMPv6, icmp(1, ip(nodes[2], pod6, 0, make([]byte, 40))))))
	f.Add(arp(nodes[0], pod4))
	f.Add(ether(etherVLAN, make([]byte, 60)))
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := Decode(data, 51820)
		if whole.Kind == "" {
			t.Fatal("no kind")
		}
		// The outer addresses do not depend on what lies behind the header, so
		// a copy cut short gives them away too.
		for _, n := range []int{34, 54} {
			if len(data) <= n || whole.Kind == Malformed || !whole.Outer.Src.Addr.IsValid() {
				continue
			}
			cut := Decode(data[:n], 51820)
			if cut.Outer.Src.Addr.IsValid() && cut.Outer.Src.Addr != whole.Outer.Src.Addr {
				t.Fatalf("cut to %d octets: source %s became %s", n, whole.Outer.Src.Addr, cut.Outer.Src.Addr)
			}
		}
	})
}
