//go:build linux

package requester

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Step of a request.
type Step string

const (
	Connect Step = "connect"
	Send    Step = "send"
	Answer  Step = "answer"
)

// Failure is a request that failed.
type Failure struct {
	At       time.Time
	After    time.Duration
	From, To netip.AddrPort
	Step     Step
	Text     string
	// Timeout says that nothing came, in contrast to a reset or a refusal.
	Timeout bool
	Conn    Conn
}

// Conn is what the kernel knew of the connection when the request failed; zero if there was none.
type Conn struct {
	// State is tcpi_state: 1 is ESTABLISHED, 8 CLOSE_WAIT.
	State uint8
	// Unacked are the segments that the far side has not confirmed, Retransmits how many were sent again.
	Unacked, Retransmits uint32
	// Acked are the bytes of the request that the far side's kernel has, Received those that it sent.
	Acked, Received uint64
}

// Cause says who has to do with it, as far as the connection tells. A request that the server's kernel
// has confirmed was carried there, and so was the confirmation: it is the server that was silent.
func (f Failure) Cause() string {
	switch {
	case f.Step == Connect && f.Timeout:
		return "no answer to SYN"
	case f.Step == Connect:
		return "refused"
	case f.Timeout && f.Conn.Unacked == 0 && f.Conn.Received == 0:
		return "delivered, the server was silent"
	case f.Timeout && f.Conn.Unacked > 0:
		return "connected, the request was not confirmed"
	case f.Timeout:
		return "the answer stopped halfway"
	default:
		return "reset or ended early"
	}
}

// String is for the person who looks for the cause.
func (f Failure) String() string {
	return fmt.Sprintf("%s %s -> %s, %s, after %s: %s (%s; state %d, unacked %d, retransmits %d, acked %d, received %d)",
		f.At.Format("15:04:05.000"), f.From, f.To, f.Step, f.After.Round(time.Millisecond), f.Text, f.Cause(),
		f.Conn.State, f.Conn.Unacked, f.Conn.Retransmits, f.Conn.Acked, f.Conn.Received)
}

// request makes one, and tells how many segments were sent again.
func request(to netip.AddrPort, path string, patience time.Duration) (uint32, *Failure) {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	end, _ := ctx.Deadline()
	c, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return 0, failed(nil, to, Connect, err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(end)
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.0\r\nHost: probe\r\n\r\n"); err != nil {
		f := failed(c, to, Send, err)
		return f.Conn.Retransmits, f
	}
	answer, err := io.ReadAll(io.LimitReader(c, 1<<16))
	if err == nil && !complete(string(answer)) {
		err = fmt.Errorf("answered %q", answer)
	}
	if err != nil {
		f := failed(c, to, Answer, err)
		return f.Conn.Retransmits, f
	}
	return look(c).Retransmits, nil
}

// complete tells whether it is a good answer with a body.
func complete(answer string) bool {
	head, body, found := strings.Cut(answer, "\r\n\r\n")
	status, _, _ := strings.Cut(head, "\r\n")
	return found && strings.Contains(status, " 200 ") && body != ""
}

func failed(c net.Conn, to netip.AddrPort, step Step, err error) *Failure {
	f := &Failure{To: to, Step: step, Text: err.Error()}
	var timeout net.Error
	f.Timeout = errors.As(err, &timeout) && timeout.Timeout()
	var op *net.OpError
	if errors.As(err, &op) {
		f.From = addrPort(op.Source)
	}
	if c != nil {
		f.From, f.Conn = addrPort(c.LocalAddr()), look(c)
	}
	return f
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok && tcp != nil {
		p := tcp.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// look reads what the kernel knows; nothing if it does not tell.
func look(c net.Conn) Conn {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return Conn{}
	}
	var out Conn
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		out = Conn{State: info.State, Unacked: info.Unacked, Retransmits: info.Total_retrans, Acked: info.Bytes_acked, Received: info.Bytes_received}
	})
	return out
}
