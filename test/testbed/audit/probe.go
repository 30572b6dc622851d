package audit

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/proc"
)

// Probe is a place on the underlay that the audit sends its own clear packets
// from, to show that it would find others'.
type Probe struct {
	// NetNS is the network namespace, by name.
	NetNS string
	// Link is the link inside it, whose other end is a port of the bridge.
	Link string
}

// newProof makes the beginning of the payload of this audit's own packets:
// nobody else's packet can be taken for one.
func newProof() []byte {
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // never fails, by its documentation
	return fmt.Appendf(nil, "weftnet leak audit %x ", secret)
}

// send sends one packet per prefix, past routing and firewall, and says how
// many went out. A probe whose cable is out, or that is gone, sends none.
func (p Probe) send(proof []byte, phase string, prefixes []netip.Prefix) (int, error) {
	sent := 0
	err := proc.InNetNS(p.NetNS, func() error {
		iface, err := net.InterfaceByName(p.Link)
		if err != nil || iface.Flags&net.FlagRunning == 0 {
			return nil //nolint:nilerr // the node is just rebooting, or its link is down
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		defer unix.Close(fd)
		for _, prefix := range prefixes {
			payload := fmt.Appendf(slices.Clone(proof), "%s %s %s", phase, p.NetNS, prefix)
			frame := clearFrame(prefix, payload)
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
				return fmt.Errorf("send from %s in %s: %w", p.Link, p.NetNS, err)
			}
			sent++
		}
		return nil
	})
	return sent, err
}

// clearFrame is a UDP packet between two addresses of the prefix, to a
// hardware address that nobody has: the bridge floods it and all ignore it.
func clearFrame(prefix netip.Prefix, payload []byte) []byte {
	src := prefix.Masked().Addr().Next()
	dst := src.Next()
	frame := []byte{0x02, 0xc8, 0xff, 0xff, 0xff, 0xff, 0x02, 0xc8, 0xff, 0, 0, 1}
	udp := binary.BigEndian.AppendUint16([]byte{0, 9, 0, 9}, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...) // no checksum: nobody is to accept it
	if src.Is4() {
		frame = binary.BigEndian.AppendUint16(frame, etherIPv4)
		frame = append(frame, headerIPv4(src, dst, protoUDP, len(udp))...)
	} else {
		frame = binary.BigEndian.AppendUint16(frame, etherIPv6)
		frame = append(frame, 0x60, 0, 0, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(udp)))
		frame = append(frame, protoUDP, 1)
		frame = append(append(frame, src.AsSlice()...), dst.AsSlice()...)
	}
	return append(frame, udp...)
}

// headerIPv4 has a right checksum: a bridge that snoops multicast drops
// packets with a wrong one before anybody sees them.
func headerIPv4(src, dst netip.Addr, proto uint8, payload int) []byte {
	h := binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+payload))
	h = append(h, 0, 0, 0, 0, 1, proto, 0, 0)
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return h
}
