//go:build netns

package reconcile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const echoPort = 7000

// echo answers datagrams at every address of the node until the test ends.
func (m *machine) echo() {
	m.t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		var c *net.UDPConn
		var err error
		m.ns.Do(m.t, func() { c, err = net.ListenUDP(network, &net.UDPAddr{Port: echoPort}) })
		m.must(err)
		m.must(roomy(c))
		m.t.Cleanup(func() { _ = c.Close() })
		go func() {
			buf := make([]byte, 2000)
			for {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
	}
}

// roomy lets a socket hold what comes while its reader does not run. The usual 208 KiB are full after some 170 small
// datagrams, a fifth of a second of a train: on a busy machine the test would count its own loss.
func roomy(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
	return errors.Join(err, serr)
}

func (m *machine) meshIP(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::1", m.number))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.244.%d.1", m.number))
}

func (m *machine) dial(to *machine, v6 bool) (*net.UDPConn, error) {
	var c *net.UDPConn
	var err error
	m.ns.Do(m.t, func() {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.meshIP(v6), echoPort)))
	})
	return c, err
}

// reach waits until datagrams come back from the other's mesh addresses, and checks that they are
// sent from this node's.
func (m *machine) reach(to *machine, within time.Duration) time.Duration {
	m.t.Helper()
	var longest time.Duration
	for _, v6 := range []bool{false, true} {
		took := eventually(m.t, within, fmt.Sprintf("node%d to node%d, IPv6 %v", m.number, to.number, v6), func() error {
			c, err := m.dial(to, v6)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if from := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); from != m.meshIP(v6) {
				return fmt.Errorf("sent from %v, want %v", from, m.meshIP(v6))
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = c.Read(make([]byte, 64))
			return err
		})
		longest = max(longest, took)
	}
	return longest
}

// mesh brings up n nodes that know each other.
func upMesh(t *testing.T, n int) []*machine {
	t.Helper()
	nodes := machines(t, n)
	var all []int
	for i := range nodes {
		all = append(all, i+1)
	}
	for _, m := range nodes {
		m.startAgent()
		m.tell(cluster(m.number, all...))
		m.echo()
	}
	for _, m := range nodes {
		m.until("readiness", func(s said) bool { return s.Ready })
	}
	return nodes
}

// train is a datagram each millisecond, each answered.
type train struct {
	conn     *net.UDPConn
	sent     atomic.Int64
	answered atomic.Int64
	done     chan struct{}
	ended    chan struct{}
}

func (m *machine) train(t *testing.T, to *machine, v6 bool) *train {
	t.Helper()
	c, err := m.dial(to, v6)
	if err != nil {
		t.Fatal(err)
	}
	m.must(roomy(c))
	tr := &train{conn: c, done: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(tr.ended)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tr.done:
				return
			case <-tick.C:
				if _, err := c.Write([]byte{1}); err == nil {
					tr.sent.Add(1)
				}
			}
		}
	}()
	go func() {
		buf := make([]byte, 16)
		for {
			if _, err := c.Read(buf); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				tr.answered.Add(1)
			}
		}
	}()
	return tr
}

// pass waits until n more datagrams have been answered.
func (tr *train) pass(t *testing.T, n int64) {
	t.Helper()
	target := tr.answered.Load() + n
	eventually(t, 30*time.Second, "the train", func() error {
		if now := tr.answered.Load(); now < target {
			return fmt.Errorf("%d of %d answered", now, target)
		}
		return nil
	})
}

func (tr *train) stop(t *testing.T) {
	t.Helper()
	close(tr.done)
	<-tr.ended
	sent := tr.sent.Load()
	eventually(t, 20*time.Second, "the last answers", func() error {
		if got := tr.answered.Load(); got != sent {
			return fmt.Errorf("%d sent and %d answered", sent, got)
		}
		return nil
	})
	t.Logf("%d datagrams, none lost", sent)
	_ = tr.conn.Close()
}
