//go:build linux

// Package listener finds the ports that local processes listen on, by the kernel's socket
// diagnostics.
package listener

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// Listener is a socket that takes what comes to a port.
type Listener struct {
	Protocol uint8
	// Address is the one it is bound to, unspecified for all.
	Address netip.AddrPort
}

// Kernel is the sockets of one network namespace.
type Kernel struct{ conn *wire.Conn }

// New opens the diagnostics of the network namespace of the calling thread.
func New() (*Kernel, error) {
	conn, err := wire.Dial(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	return &Kernel{conn: conn}, nil
}

// Close ends the socket.
func (k *Kernel) Close() error { return k.conn.Close() }

// Of linux/sock_diag.h, linux/inet_diag.h and linux/tcp.h, which x/sys/unix lacks.
const (
	byFamily    = 20
	stateClose  = 7  // of a UDP socket that is not connected
	stateListen = 10 // of a TCP socket that accepts
	requestSize = 56 // struct inet_diag_req_v2
	// Offsets in struct inet_diag_msg.
	offsetPort    = 4
	offsetAddress = 8
	messageSize   = 72
)

// List gives the listeners of TCP and UDP in both families.
func (k *Kernel) List(ctx context.Context) ([]Listener, error) {
	var out []Listener
	var faults []error
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		for protocol, states := range map[uint8]uint32{state.ProtoTCP: 1 << stateListen, state.ProtoUDP: 1 << stateClose} {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			request := make([]byte, requestSize)
			request[0], request[1] = family, protocol
			binary.NativeEndian.PutUint32(request[4:], states)
			replies, err := k.conn.List(byFamily, request)
			if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without the family has none of its sockets
				faults = append(faults, fmt.Errorf("list listeners: %w", err))
				continue
			}
			for _, r := range replies {
				if l, ok := decode(r, protocol); ok {
					out = append(out, l)
				}
			}
		}
	}
	return out, errors.Join(faults...)
}

func decode(b []byte, protocol uint8) (Listener, bool) {
	if len(b) < messageSize {
		return Listener{}, false
	}
	raw := b[offsetAddress : offsetAddress+16]
	if b[0] == unix.AF_INET {
		raw = raw[:4]
	}
	addr, ok := netip.AddrFromSlice(raw)
	return Listener{Protocol: protocol, Address: netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[offsetPort:]))}, ok
}
