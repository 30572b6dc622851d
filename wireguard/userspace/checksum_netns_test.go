//go:build netns

package userspace_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/wgtest"
)

// TestDatagramWithAZeroChecksumArrives sends the one payload of two bytes for which the UDP checksum
// over IPv6 is zero.
func TestDatagramWithAZeroChecksumArrives(t *testing.T) {
	a, b := pair(t, false)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	c := a.dial(t, b, 1)
	payload := zeroSum(c.LocalAddr().(*net.UDPAddr), c.RemoteAddr().(*net.UDPAddr))
	wgtest.Eventually(t, 20*time.Second, func() error {
		if _, err := c.Write(payload); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if err == nil && string(buf[:n]) != string(payload) {
			return fmt.Errorf("%x came back for %x", buf[:n], payload)
		}
		return err
	})
}

// zeroSum is the payload that brings the sum of a datagram to its complement's zero.
func zeroSum(from, to *net.UDPAddr) []byte {
	const length, protocol = 8 + 2, 17
	sum := uint32(length + protocol + length + from.Port + to.Port)
	for _, addr := range [][]byte{from.IP.To16(), to.IP.To16()} {
		for i := 0; i < len(addr); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(addr[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return binary.BigEndian.AppendUint16(nil, ^uint16(sum))
}
