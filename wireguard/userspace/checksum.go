package userspace

import (
	"encoding/binary"

	"golang.zx2c4.com/wireguard/tun"
)

// checkedTUN mends the checksum of some packets that come from the kernel. The kernel leaves
// checksums to the reader of a TUN link, and wireguard-go fills them in, but writes a sum of zero as
// zero. RFC 8200 section 8.1 wants 0xffff in its place: over IPv6 a zero is dropped by the receiver,
// which loses one UDP packet in 65,536. (Seen as UDP_CSUM in the kernel's drop reasons, with
// golang.zx2c4.com/wireguard of May 2026.) IPv4 takes a zero as "no checksum" and loses nothing.
type checkedTUN struct {
	tun.Device
}

// Read implements tun.Device.
func (c checkedTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := c.Device.Read(bufs, sizes, offset)
	for i := range n {
		mendUDP6(bufs[i][offset : offset+sizes[i]])
	}
	return n, err
}

const (
	ip6HeaderLen   = 40
	udpHeaderLen   = 8
	udpChecksumAt  = ip6HeaderLen + 6
	protocolUDP    = 17
	ip6AddressesAt = 8
)

// mendUDP6 writes 0xffff for a UDP checksum over IPv6 that is zero because the sum is. A packet that
// was sent without a checksum, as RFC 6935 allows to tunnels, has another sum and stays as it is.
func mendUDP6(packet []byte) {
	if len(packet) < ip6HeaderLen+udpHeaderLen || packet[0]>>4 != 6 || packet[6] != protocolUDP {
		return
	}
	if binary.BigEndian.Uint16(packet[udpChecksumAt:]) != 0 {
		return
	}
	// The pseudo header is the two addresses, the length and the protocol; the field itself is zero.
	sum := uint64(len(packet)-ip6HeaderLen) + protocolUDP
	for i := ip6AddressesAt; i < len(packet); i += 2 {
		if i+1 == len(packet) {
			sum += uint64(packet[i]) << 8
			break
		}
		sum += uint64(binary.BigEndian.Uint16(packet[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if sum == 0xffff {
		binary.BigEndian.PutUint16(packet[udpChecksumAt:], 0xffff)
	}
}
