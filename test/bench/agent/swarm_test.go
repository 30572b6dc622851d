//go:build linux && bench

package agent

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/bench/lab"
	"github.com/weftnet/weftnet/test/nstest"
)

const port = 51820

// simulate fills the mesh up. A simulated node is a MeshNode and a WireGuard device in this process
// that answers handshakes: peers that never answer would be retried for ever, and that is no idling.
func simulate(t *testing.T, l *lab.Lab, nodes []*lab.Node) {
	t.Helper()
	swarm := nstest.New(t)
	var numbers []int
	for number := residents; number < total; number++ {
		numbers = append(numbers, number)
	}
	l.Plug(t, swarm, "swarm", numbers...)
	peers := residentPeers(t, l, nodes)
	const workers = 8
	work := make(chan int)
	errs := make(chan error, len(numbers))
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for number := range work {
				errs <- simulateOne(t, l, swarm, number, peers)
			}
		})
	}
	for _, number := range numbers {
		work <- number
	}
	close(work)
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// residentPeers are the real nodes, in the words of WireGuard's configuration protocol.
func residentPeers(t *testing.T, l *lab.Lab, nodes []*lab.Node) string {
	t.Helper()
	var text strings.Builder
	for _, node := range nodes {
		m, err := l.MeshNode(t.Context(), node.Number)
		if err != nil {
			t.Fatal(err)
		}
		key, err := state.ParsePublicKey(m.Status.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "public_key=%s\n", hex.EncodeToString(key[:]))
		for _, cidr := range m.Spec.PodCIDRs {
			fmt.Fprintf(&text, "allowed_ip=%s\n", cidr)
		}
	}
	return text.String()
}

func simulateOne(t *testing.T, l *lab.Lab, swarm *nstest.Namespace, number int, peers string) error {
	private, err := state.GeneratePrivateKey(rand.Reader)
	if err != nil {
		return err
	}
	addresses := lab.Addresses(number)
	socket := &oneSocket{}
	swarm.Do(t, func() {
		socket.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addresses[0], port)))
	})
	if err != nil {
		return err
	}
	dev := device.NewDevice(newSink(), socket, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	secret := private.Reveal()
	if err := dev.IpcSet("private_key=" + hex.EncodeToString(secret[:]) + "\n" + peers); err != nil {
		return err
	}
	if err := dev.Up(); err != nil {
		return err
	}
	m, err := l.CreateMeshNode(t.Context(), number)
	if err != nil {
		return err
	}
	m.Status = v1alpha1.MeshNodeStatus{
		PublicKey: private.Public().String(), KeyEpoch: 1, ListenPort: port, MTU: 1440, Backend: v1alpha1.BackendUserspace,
		Endpoints: []string{addresses[0].String(), addresses[1].String()},
	}
	return l.Client.Status().Update(t.Context(), m)
}

// oneSocket is a device's way to the underlay: one socket that is open already, one datagram at a time.
// WireGuard's own takes megabytes of buffers.
type oneSocket struct {
	conn *net.UDPConn
	open bool
}

func (s *oneSocket) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	s.open = true
	return []conn.ReceiveFunc{s.receive}, port, nil
}

func (s *oneSocket) receive(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
	n, address, err := s.conn.ReadFromUDPAddrPort(packets[0])
	if err != nil {
		return 0, err
	}
	sizes[0], from[0] = n, &conn.StdNetEndpoint{AddrPort: address}
	return 1, nil
}

// Close is called before Open, too.
func (s *oneSocket) Close() error {
	if !s.open {
		return nil
	}
	return s.conn.Close()
}

func (s *oneSocket) Send(packets [][]byte, to conn.Endpoint) error {
	for _, packet := range packets {
		if _, err := s.conn.WriteToUDPAddrPort(packet, to.(*conn.StdNetEndpoint).AddrPort); err != nil {
			return err
		}
	}
	return nil
}

func (*oneSocket) ParseEndpoint(text string) (conn.Endpoint, error) {
	address, err := netip.ParseAddrPort(text)
	return &conn.StdNetEndpoint{AddrPort: address}, err
}

func (*oneSocket) SetMark(uint32) error { return nil }
func (*oneSocket) BatchSize() int       { return 1 }

// sink is a TUN device behind which there is nothing.
type sink struct {
	closed chan struct{}
	events chan tun.Event
	once   sync.Once
}

func newSink() *sink { return &sink{closed: make(chan struct{}), events: make(chan tun.Event)} }

func (s *sink) Read([][]byte, []int, int) (int, error) {
	<-s.closed
	return 0, os.ErrClosed
}

func (s *sink) Write(packets [][]byte, _ int) (int, error) { return len(packets), nil }

func (s *sink) Close() error {
	s.once.Do(func() {
		close(s.closed)
		close(s.events)
	})
	return nil
}

func (*sink) File() *os.File             { return nil }
func (*sink) MTU() (int, error)          { return 1440, nil }
func (*sink) Name() (string, error)      { return "sink", nil }
func (s *sink) Events() <-chan tun.Event { return s.events }
func (*sink) BatchSize() int             { return 1 }
