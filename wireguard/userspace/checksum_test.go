package userspace

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// udp6 is a UDP packet over IPv6 with two bytes of payload and a checksum of zero.
func udp6(payload uint16) []byte {
	p := make([]byte, ip6HeaderLen+udpHeaderLen+2)
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], udpHeaderLen+2)
	p[6], p[7] = protocolUDP, 64
	copy(p[8:], []byte{0xfd, 0, 0, 1, 15: 1})
	copy(p[24:], []byte{0xfd, 0, 0, 2, 15: 2})
	binary.BigEndian.PutUint16(p[40:], 5000)
	binary.BigEndian.PutUint16(p[42:], 6000)
	binary.BigEndian.PutUint16(p[44:], udpHeaderLen+2)
	binary.BigEndian.PutUint16(p[48:], payload)
	return p
}

// complement sums a packet as its receiver does; zero means that the checksum is right.
func complement(p []byte) uint16 {
	sum := uint32(len(p)-ip6HeaderLen) + protocolUDP
	for i := 8; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// TestOnlyAZeroSumIsMended tries every payload: exactly one of them sums to zero, and its packet
// must come out with 0xffff and a sum that is right; all others stay as they are.
func TestOnlyAZeroSumIsMended(t *testing.T) {
	mended := 0
	for payload := range 1 << 16 {
		p := udp6(uint16(payload))
		before := bytes.Clone(p)
		mendUDP6(p)
		if bytes.Equal(p, before) {
			continue
		}
		mended++
		if complement(before) != 0 || complement(p) != 0 || binary.BigEndian.Uint16(p[udpChecksumAt:]) != 0xffff {
			t.Errorf("payload %#x: %x became %x", payload, before, p)
		}
	}
	if mended != 1 {
		t.Errorf("%d of 65,536 packets were mended, want 1", mended)
	}
}

func TestOtherPacketsAreLeftAlone(t *testing.T) {
	ipv4 := append([]byte{0x45}, make([]byte, 60)...)
	tcp := udp6(0)
	tcp[6] = 6
	for name, p := range map[string][]byte{"IPv4": ipv4, "TCP": tcp, "short": udp6(0)[:45], "empty": {}} {
		before := bytes.Clone(p)
		mendUDP6(p)
		if !bytes.Equal(p, before) {
			t.Errorf("%s: %x became %x", name, before, p)
		}
	}
}

func FuzzMendUDP6(f *testing.F) {
	f.Add(udp6(7))
	f.Add([]byte{0x60})
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		mendUDP6(p)
		if len(p) != len(before) {
			t.Error("the length changed")
		}
	})
}
