//go:build bench

package mesh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weftnet/test/harness"
)

// bareNode is one end of the bare pair.
type bareNode struct {
	namespace, device string
	underlay, inner   netip.Addr
	key               wgtypes.Key
	tunnel            place // with the share of the processors that Weftnet's tunnel has on this node
}

const (
	barePort    = 51899
	netnsFolder = "/run/netns/"
)

// bareSide joins the first two nodes by a pair of wireguard-go processes that nothing manages, with
// the settings that wireguard-go has by itself and the MTU that the mesh has.
func bareSide(t *testing.T, cluster *harness.Cluster, probes *harness.Probes) side {
	t.Helper()
	program := filepath.Join(t.TempDir(), "wireguard-go")
	if _, err := harness.Command(t.Context(), cluster.Root, os.Stderr, "go", "build", "-o", program, "golang.zx2c4.com/wireguard"); err != nil {
		t.Fatal(err)
	}
	pair := [2]bareNode{
		{namespace: "tb-node1", device: "bare1", underlay: netip.MustParseAddr("10.200.0.11"), inner: netip.MustParseAddr("192.0.2.1")},
		{namespace: "tb-node2", device: "bare2", underlay: netip.MustParseAddr("10.200.0.12"), inner: netip.MustParseAddr("192.0.2.2")},
	}
	for i := range pair {
		key, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		pair[i].key, pair[i].tunnel = key, tunnelPlace(t, cluster, pair[i].namespace)
		startBare(t, program, pair[i])
	}
	for i := range pair {
		if err := pair[i].configure(pair[1-i]); err != nil {
			t.Fatal(err)
		}
	}
	from, to := placeOf(t, &probes.Pods[0]).in(netnsFolder+pair[0].namespace), placeOf(t, &probes.Pods[1]).in(netnsFolder+pair[1].namespace)
	to.start(t, "iperf3", "-s", "-p", itoa(streamPort), "-B", pair[1].inner.String())
	s := side{run: runIn(cluster, from), to: pair[1].inner}
	s.waitForStreams(t, "bare pair answers")
	return s
}

// tunnelPlace is where Weftnet's own tunnel runs on a node.
func tunnelPlace(t *testing.T, cluster *harness.Cluster, node string) place {
	t.Helper()
	pods, err := cluster.WaitPods(t.Context(), "weftnet-system", "app.kubernetes.io/component=wireguard", nodes, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods {
		if pods[i].Spec.NodeName == node {
			return placeOf(t, &pods[i]).in(netnsFolder + node)
		}
	}
	t.Fatalf("no tunnel runs on %s", node)
	return place{}
}

func startBare(t *testing.T, program string, n bareNode) {
	t.Helper()
	// A killed wireguard-go leaves its socket behind, which would look like a device that is there.
	socket := "/var/run/wireguard/" + n.device + ".sock"
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(socket) })
	n.tunnel.start(t, program, "-f", n.device)
	err := harness.Eventually(t.Context(), 15*time.Second, "device "+n.device+" exists", func(ctx context.Context) error {
		_, err := os.Stat(socket)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"ip", "address", "add", n.inner.String() + "/24", "dev", n.device},
		{"ip", "link", "set", n.device, "up", "mtu", "1440"},
	} {
		if _, err := harness.Command(t.Context(), "/", nil, "ip", append([]string{"netns", "exec", n.namespace}, command...)...); err != nil {
			t.Fatal(err)
		}
	}
}

func (n bareNode) configure(peer bareNode) error {
	client, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("open wgctrl: %w", err)
	}
	defer client.Close()
	port := barePort
	return client.ConfigureDevice(n.device, wgtypes.Config{
		PrivateKey: &n.key, ListenPort: &port,
		Peers: []wgtypes.PeerConfig{{
			PublicKey:  peer.key.PublicKey(),
			Endpoint:   net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer.underlay, barePort)),
			AllowedIPs: []net.IPNet{{IP: peer.inner.AsSlice(), Mask: net.CIDRMask(32, 32)}},
		}},
	})
}
