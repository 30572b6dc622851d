//go:build linux

package requester

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const page = "HTTP/1.0 200 OK\r\n\r\nserver"

// serve lets a server do something with each connection, and gives its address.
func serve(t *testing.T, do func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go do(c.(*net.TCPConn))
		}
	}()
	return addrPort(l.Addr())
}

// answers reads the request and answers with text.
func answers(text string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 512))
		_, _ = io.WriteString(c, text)
		_ = c.Close()
	}
}

// during works until enough is closed, and gives all that was told.
func during(t *testing.T, o Order, enough <-chan struct{}) ([]Failure, Report) {
	t.Helper()
	in, give := io.Pipe()
	take, out := io.Pipe()
	worked := make(chan error, 1)
	go func() {
		err := work(in, out)
		worked <- errors.Join(err, out.Close())
	}()
	go func() {
		_ = json.NewEncoder(give).Encode(o)
		<-enough
		_ = give.Close()
	}()
	var failures []Failure
	var report *Report
	lines := json.NewDecoder(take)
	for {
		var m message
		if lines.Decode(&m) != nil {
			break
		}
		if m.Failure != nil {
			failures = append(failures, *m.Failure)
		}
		if m.Report != nil {
			report = m.Report
		}
	}
	if err := <-worked; err != nil {
		t.Error(err)
	}
	if report == nil {
		t.Fatal("there was no report")
	}
	return failures, *report
}

func TestRequestsInTurn(t *testing.T) {
	var first, second atomic.Int64
	enough := make(chan struct{})
	a := serve(t, func(c *net.TCPConn) { first.Add(1); answers(page)(c) })
	b := serve(t, func(c *net.TCPConn) {
		if second.Add(1) == 20 {
			close(enough)
		}
		answers(page)(c)
	})
	failures, report := during(t, Order{To: []netip.AddrPort{a, b}, PerSecond: 200, Path: "/", Patience: time.Minute}, enough)
	if len(failures) > 0 {
		t.Errorf("requests failed: %v", failures)
	}
	if report.Made < 40 || int64(report.Made) != first.Load()+second.Load() || first.Load()-second.Load() > 1 {
		t.Errorf("%d requests reported, servers have seen %d and %d", report.Made, first.Load(), second.Load())
	}
	if report.Typical <= 0 || report.Rare < report.Typical || report.Longest < report.Rare {
		t.Errorf("requests took %s, %s, %s", report.Typical, report.Rare, report.Longest)
	}
}

// nobody is an address at which nobody listens. It is held, or the kernel would give it to the next server.
func nobody(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := name.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
}

func TestFailuresAreToldApart(t *testing.T) {
	reset := func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 512))
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	keep := make(chan *net.TCPConn, 1000) // or the collector closes them
	halfway := func(c *net.TCPConn) { _, _ = io.WriteString(c, "HTTP/1.0 "); keep <- c }
	tests := []struct {
		name  string
		to    netip.AddrPort
		step  Step
		cause string
	}{
		{"nobody listens", nobody(t), Connect, "refused"},
		{"the server does nothing", serve(t, func(c *net.TCPConn) { keep <- c }), Answer, "delivered, the server was silent"},
		{"the server stops in its answer", serve(t, halfway), Answer, "the answer stopped halfway"},
		{"the server resets", serve(t, reset), Answer, "reset or ended early"},
		{"the server ends without an answer", serve(t, answers("")), Answer, "reset or ended early"},
		{"the server answers with a fault", serve(t, answers("HTTP/1.0 503 No\r\n\r\nno")), Answer, "reset or ended early"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, f := request(test.to, "/", 300*time.Millisecond)
			if f == nil {
				t.Fatal("the request did not fail")
			}
			if f.Step != test.step || f.Cause() != test.cause {
				t.Errorf("%s: want a failure to %s, %s", f, test.step, test.cause)
			}
			if f.Step == Answer && !f.From.IsValid() {
				t.Errorf("%s: where it came from is not known", f)
			}
		})
	}
}

func TestAFailureIsToldWithItsAddress(t *testing.T) {
	enough := make(chan struct{})
	var seen atomic.Int64
	to := serve(t, func(c *net.TCPConn) {
		if seen.Add(1) == 3 {
			close(enough)
		}
		answers("")(c)
	})
	failures, report := during(t, Order{To: []netip.AddrPort{to}, PerSecond: 200, Path: "/", Patience: time.Minute}, enough)
	if len(failures) < 3 || len(failures) != report.Made {
		t.Errorf("%d of %d requests failed, want all", len(failures), report.Made)
	}
	for _, f := range failures {
		if f.To != to || f.At.IsZero() || !f.From.IsValid() {
			t.Errorf("told as %s", f)
		}
	}
}
