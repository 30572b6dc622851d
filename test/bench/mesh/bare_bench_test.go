//go:build bench

package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
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
}

const barePort = 51899

// bareSide joins the first two nodes by a pair of wireguard-go processes that nothing manages, with
// the settings that wireguard-go has by itself and the MTU that the mesh has.
func bareSide(t *testing.T, cluster *harness.Cluster) side {
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
		pair[i].key = key
		startBare(t, program, pair[i])
	}
	for i := range pair {
		if err := pair[i].configure(pair[1-i]); err != nil {
			t.Fatal(err)
		}
	}
	inNamespace(t, pair[1].namespace, "iperf3", "-s", "-p", fmt.Sprint(streamPort), "-B", pair[1].inner.String())
	run := func(ctx context.Context, command ...string) (string, error) {
		return harness.Command(ctx, cluster.Root, nil, "ip", append([]string{"netns", "exec", pair[0].namespace}, command...)...)
	}
	s := side{run: run, to: pair[1].inner}
	err := harness.Eventually(t.Context(), 15*time.Second, "bare pair answers", func(ctx context.Context) error {
		_, err := run(ctx, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", s.to, streamPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func startBare(t *testing.T, program string, n bareNode) {
	t.Helper()
	inNamespace(t, n.namespace, program, "-f", n.device)
	err := harness.Eventually(t.Context(), 5*time.Second, "device "+n.device+" exists", func(ctx context.Context) error {
		_, err := os.Stat("/var/run/wireguard/" + n.device + ".sock")
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

// inNamespace starts a program in a node's network namespace and ends it with the test.
func inNamespace(t *testing.T, namespace string, command ...string) {
	t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + namespace}, command...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
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
