package source

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/prompt"
)

// deadAfter is how long a connection may be silent although it was asked: as long as client-go gives one of HTTP/2 (a
// ping after 30 s, 15 s for its answer). HTTP/1.1 has no pings: the kernel asks the other end of the connection, which
// may be a proxy's, and goes on answering when the API server behind it does not. silentFor is for that: a watch hears of the
// API server every minute (its bookmarks).
const (
	silentFor  = 100 * time.Second
	deadAfter  = 45 * time.Second
	askAfter   = 30 * time.Second
	askEvery   = 5 * time.Second
	unanswered = int((deadAfter - askAfter) / askEvery)
)

func dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         30 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: askAfter, Interval: askEvery, Count: unanswered},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			fault := c.Control(func(fd uintptr) {
				// What was sent and is not acknowledged would be sent again for a quarter of an hour.
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
			})
			return errors.Join(fault, err)
		},
	}
}

// dialPlain makes a connection whose reads are prompt where that is possible.
func dialPlain(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := dialer().DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return c, nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &plain{t, raw}, nil
}

// plain is a connection that waits for what it reads as any other. Its descriptor is set not to block, so no read of it does, and
// that is how they are made (package prompt).
type plain struct {
	*net.TCPConn
	raw syscall.RawConn
}

func (p *plain) Read(b []byte) (n int, err error) {
	fault := p.raw.Read(func(fd uintptr) (done bool) {
		n, err = prompt.Read(fd, b)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case fault != nil: // it is closed, or its deadline has passed
		return 0, fault
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: p.LocalAddr(), Addr: p.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// heard is a connection that ends when nothing has come for silentFor.
type heard struct {
	net.Conn
	silentFor time.Duration
	// until is the deadline that is set; only the connection's one reader uses it.
	until time.Time
}

func (h *heard) Read(b []byte) (int, error) {
	// Not with each read: it costs a timer.
	if want := time.Now().Add(h.silentFor); want.Sub(h.until) > h.silentFor/10 {
		if err := h.SetReadDeadline(want); err != nil {
			return 0, err
		}
		h.until = want
	}
	return h.Conn.Read(b)
}
