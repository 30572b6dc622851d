//go:build linux && apiserver

package cleanup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
)

// The Pod behind the Service, and the node's side of its link.
var (
	podAddresses  = []string{"10.244.0.2", "fd00:10:244::2"}
	nodeAddresses = []string{"10.244.0.1", "fd00:10:244::1"}
)

const (
	podPort  = 8080
	nodeName = "tb-node1"
)

// lab is a node and a Pod that echoes.
type lab struct {
	node, pod *nstest.Namespace
	weft      string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{node: nstest.New(t), pod: nstest.New(t), weft: filepath.Join(t.TempDir(), "weft")}
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", l.weft, "./cli")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build weft: %v\n%s", err, out)
	}
	l.node.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "pod0"
		err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(l.pod.Fd())})
		err = errors.Join(err, configure("pod0", nodeAddresses), defaultRoutes("pod0", podAddresses))
	})
	l.pod.Do(t, func() { err = errors.Join(err, configure("eth0", podAddresses)) })
	if err != nil {
		t.Fatal(err)
	}
	l.serve(t)
	return l
}

func configure(name string, addresses []string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, text := range addresses {
		a := netip.MustParseAddr(text)
		bits := map[bool]int{true: 24, false: 64}[a.Is4()]
		address := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
		if a.Is6() {
			address.Flags = 0x02 // IFA_F_NODAD: usable at once
		}
		errs = append(errs, netlink.AddrAdd(link, address))
	}
	return errors.Join(append(errs, netlink.LinkSetUp(link))...)
}

// defaultRoutes let a connection to a Service's address begin: without a route there is no packet
// that could be translated.
func defaultRoutes(name string, gateways []string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range gateways {
		errs = append(errs, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: netip.MustParseAddr(g).AsSlice()}))
	}
	return errors.Join(errs...)
}

func (l *lab) serve(t *testing.T) {
	t.Helper()
	for _, a := range podAddresses {
		var listener net.Listener
		var err error
		l.pod.Do(t, func() {
			listener, err = net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(a), podPort).String())
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return // closed with the test
				}
				go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
			}
		}()
	}
}

// line is a connection to something that echoes.
type line struct {
	net.Conn
	answers *bufio.Reader
}

func (l *lab) tryDial(t *testing.T, to netip.AddrPort) (*line, error) {
	t.Helper()
	var c net.Conn
	var err error
	l.node.Do(t, func() { c, err = net.DialTimeout("tcp", to.String(), time.Second) })
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	return &line{Conn: c, answers: bufio.NewReader(c)}, nil
}

func (l *lab) dial(t *testing.T, to netip.AddrPort) *line {
	t.Helper()
	c, err := l.tryDial(t, to)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventuallyDial waits for kube-proxy.
func (l *lab) eventuallyDial(t *testing.T, to netip.AddrPort) *line {
	t.Helper()
	var c *line
	for deadline := time.Now().Add(time.Minute); ; {
		var err error
		if c, err = l.tryDial(t, to); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("kube-proxy does not serve %s: %v", to, err)
		}
	}
	c.echo(t, "hello")
	return c
}

func (c *line) echo(t *testing.T, text string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := fmt.Fprintln(c, text)
	answer, err2 := c.answers.ReadString('\n')
	if err := errors.Join(err, err2); err != nil || answer != text+"\n" {
		t.Errorf("%s answered %q to %q: %v", c.RemoteAddr(), answer, text, err)
	}
}

// cleanup runs the command itself: what it asks over HTTP leaves from the namespace of its process.
func (l *lab) cleanup(t *testing.T, flags ...string) (string, error) {
	t.Helper()
	var out []byte
	var err error
	l.node.Do(t, func() {
		out, err = exec.Command(l.weft, append([]string{"cleanup", "kube-proxy"}, flags...)...).CombinedOutput()
	})
	return string(out), err
}

// refused runs the command, which must not have removed anything.
func (l *lab) refused(t *testing.T, why error) {
	t.Helper()
	before := l.ruleset(t)
	told, err := l.cleanup(t)
	if err == nil || !strings.Contains(told, why.Error()) || !strings.Contains(told, "would remove") {
		t.Errorf("%v, told %q; want a refusal: %v", err, told, why)
	}
	if after := l.ruleset(t); before == "" || after != before {
		t.Error("a refused run has changed the rules")
	}
}

func (l *lab) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	l.node.Do(t, func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (l *lab) nft(t *testing.T, lines ...string) {
	t.Helper()
	l.run(t, "nft", strings.Join(lines, "; "))
}

// ruleset without what counts.
func (l *lab) ruleset(t *testing.T) string {
	t.Helper()
	return l.run(t, "nft", "--stateless", "list", "ruleset")
}

func makeNode(t *testing.T, api client.Client) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	if err := api.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	for _, a := range nodeAddresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	if err := api.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
}

// makeService makes a dual-stack Service of one Pod and gives its addresses.
func makeService(t *testing.T, api client.Client) []netip.AddrPort {
	t.Helper()
	both, yes, port, tcp := corev1.IPFamilyPolicyRequireDualStack, true, int32(podPort), corev1.ProtocolTCP
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "echo", Namespace: "default"}, Spec: corev1.ServiceSpec{
		IPFamilyPolicy: &both, Ports: []corev1.ServicePort{{Port: 80, Protocol: tcp}},
	}}
	if err := api.Create(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	var out []netip.AddrPort
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{GenerateName: "echo-", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "echo"}},
			AddressType: family,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: podAddresses[i : i+1], Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
			Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port, Protocol: &tcp}},
		}
		if err := api.Create(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
		out = append(out, netip.AddrPortFrom(netip.MustParseAddr(service.Spec.ClusterIPs[i]), 80))
	}
	return out
}
