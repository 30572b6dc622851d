//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// monitor listens to what changes in nftables and tells when somebody else changed our table. Our
// own transactions are known by the port of their socket, which the kernel writes into each event.
type monitor struct {
	family byte
	table  string
	own    uint32
	file   *os.File
	// running tells that events are being read; strangers counts those that concern us.
	running   atomic.Bool
	strangers atomic.Uint64
}

const monitorBuffer = 8 << 20

// Deadlines for a read: one that has passed wakes the reader, none lets it wait.
var (
	aLongTimeAgo = time.Unix(1, 0)
	noDeadline   time.Time
)

func newMonitor(family, table string, own uint32) (*monitor, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter event socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind netfilter event socket: %w", err)
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, monitorBuffer)
	return &monitor{family: families[family], table: table, own: own, file: os.NewFile(uintptr(fd), "nftables events")}, nil
}

func (m *monitor) close() error { return m.file.Close() }

// mark and undisturbed bracket a transaction: the second tells whether events are being read and
// none has come from a stranger since.
func (m *monitor) mark() uint64 { return m.strangers.Load() }

func (m *monitor) undisturbed(mark uint64) bool {
	return m.running.Load() && m.strangers.Load() == mark
}

// Subscribe tells on the channel when another program has changed or deleted our table, or when
// events were lost; several at once are told as one. It ends, and closes the channel, with ctx.
// Only one subscription may run at a time.
func (k *Kernel) Subscribe(ctx context.Context) (<-chan struct{}, error) {
	m := k.monitor
	if !m.running.CompareAndSwap(false, true) {
		return nil, errors.New("subscribe to nftables events: already subscribed")
	}
	if err := m.join(unix.NETLINK_ADD_MEMBERSHIP); err != nil {
		m.running.Store(false)
		return nil, fmt.Errorf("subscribe to nftables events: %w", err)
	}
	out := make(chan struct{}, 1)
	reading, stop := context.WithCancel(ctx)
	stopRead := context.AfterFunc(reading, func() { _ = m.file.SetReadDeadline(aLongTimeAgo) })
	go func() {
		defer close(out)
		defer stop()
		defer stopRead()
		m.read(ctx, func() {
			m.strangers.Add(1)
			k.forget()
			select {
			case out <- struct{}{}:
			default:
			}
		})
		m.running.Store(false)
		k.forget()
		_ = m.join(unix.NETLINK_DROP_MEMBERSHIP)
	}()
	return out, nil
}

func (m *monitor) join(option int) error {
	return m.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, unix.NFNLGRP_NFTABLES)
	})
}

func (m *monitor) control(f func(fd int) error) error {
	rc, err := m.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// read calls changed for each datagram that concerns us, until ctx ends or the socket is closed.
func (m *monitor) read(ctx context.Context, changed func()) {
	_ = m.file.SetReadDeadline(noDeadline)
	buf := make([]byte, replySize)
	for ctx.Err() == nil {
		n, err := m.file.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			changed() // events were lost: anything may have happened
		case err != nil:
			return
		case m.concerns(buf[:n]):
			changed()
		}
	}
}

// concerns looks for a stranger's change of our table. In every nftables message the first
// attribute type names the table.
func (m *monitor) concerns(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr+4 {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr+4 || n > len(b) {
			return false
		}
		typ, port := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[12:])
		if typ>>8 == unix.NFNL_SUBSYS_NFTABLES && typ&0xff != unix.NFT_MSG_NEWGEN && port != m.own && b[unix.SizeofNlMsghdr] == m.family &&
			asString(find(parse(b[unix.SizeofNlMsghdr+4:n]), unix.NFTA_TABLE_NAME)) == m.table {
			return true
		}
		b = b[min(align(n), len(b)):]
	}
	return false
}
