//go:build linux

package pod

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// minIPv6MTU is the least MTU of a link that carries IPv6 (RFC 8200, section 5).
const minIPv6MTU = 1280

// Spec is the wiring of one attachment.
type Spec struct {
	// HostLink and IfName are the names of the two ends.
	HostLink, IfName string
	// Netns is a descriptor of the Pod's network namespace.
	Netns int
	// Addresses of the Pod, at most one of a family.
	Addresses []netip.Addr
	// MTU of both ends, in bytes.
	MTU       int
	Bandwidth state.Bandwidth
	// FromLoopback lets the node reach the Pod from 127.0.0.1, as host ports need. IPv6 has no such way.
	FromLoopback bool
}

// Validate tells everything that is wrong with the wiring.
func (s Spec) Validate() error {
	var errs []error
	if !strings.HasPrefix(s.HostLink, state.PodLinkPrefix) || len(s.HostLink) >= unix.IFNAMSIZ {
		errs = append(errs, fmt.Errorf("host link %q is not %s<hash>", s.HostLink, state.PodLinkPrefix))
	}
	if s.IfName == "" || len(s.IfName) >= unix.IFNAMSIZ {
		errs = append(errs, fmt.Errorf("interface name %q must have 1 to %d bytes", s.IfName, unix.IFNAMSIZ-1))
	}
	if len(s.Addresses) == 0 {
		errs = append(errs, errors.New("no address"))
	}
	for i, a := range s.Addresses {
		if !a.IsValid() || i > 0 && a.Is4() == s.Addresses[i-1].Is4() || i > 1 {
			errs = append(errs, fmt.Errorf("addresses %v: want at most one of a family", s.Addresses))
			break
		}
	}
	if s.MTU < minIPv6MTU || s.MTU > 65535 {
		errs = append(errs, fmt.Errorf("MTU %d is not in %d to 65535", s.MTU, minIPv6MTU))
	}
	return errors.Join(errs...)
}

// ErrInUse is returned when the Pod's namespace has a link of the wanted name already.
var ErrInUse = errors.New("the Pod's network namespace already has a link of this name")

// Wiring is what Attach made.
type Wiring struct {
	HostMAC, PodMAC net.HardwareAddr
}

// MACs are the hardware addresses of the two ends, drawn from the name of the host link: locally
// administered, unicast, the same at every attempt.
func MACs(hostLink string) (host, pod net.HardwareAddr) {
	sum := sha256.Sum256([]byte(hostLink))
	mac := func(b []byte) net.HardwareAddr {
		m := net.HardwareAddr(append([]byte(nil), b[:6]...))
		m[0] = m[0]&^1 | 2
		return m
	}
	return mac(sum[:6]), mac(sum[6:12])
}

// Config of a Kernel.
type Config struct {
	// ProcSysNet is where /proc/sys/net is writable; empty means /proc/sys/net.
	ProcSysNet string
	// Clsact gives each host end a qdisc for programs that come later (clsact): to a link that is up one cannot be
	// added without losing what is sent to the Pod meanwhile. Not to Pods with limits of bandwidth, which have their own.
	Clsact bool
}

// Kernel wires Pods to the network namespace in which it was made.
type Kernel struct {
	home       int
	homeID     namespaceID
	procSysNet string
	clsact     bool
	// ipv6 says that the kernel has IPv6.
	ipv6 bool
	// acceptRA says that a new link believes router advertisements even though the node forwards
	// (the default of 1 does not), noIPv6 that it has no IPv6.
	acceptRA, noIPv6 bool
	sockets          chan *socket

	mu      sync.Mutex
	leaving []*departure
}

// parallel is how many requests write at once. The kernel takes one at a time (RTNL); a second one
// prepares meanwhile, and more would only wait in the kernel instead of here.
const parallel = 2

// New binds to the network namespace of the calling thread.
func New(c Config) (*Kernel, error) {
	if c.ProcSysNet == "" {
		c.ProcSysNet = "/proc/sys/net"
	}
	home, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	id, err := identify(home)
	if err != nil {
		_ = unix.Close(home)
		return nil, err
	}
	k := &Kernel{home: home, homeID: id, procSysNet: c.ProcSysNet, clsact: c.Clsact, sockets: make(chan *socket, parallel)}
	for range parallel {
		s, err := openSocket()
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		k.sockets <- s
	}
	k.ipv6 = k.hasIPv6()
	k.acceptRA = k.sysctlIs("ipv6/conf/default/accept_ra", "2")
	k.noIPv6 = k.sysctlIs("ipv6/conf/default/disable_ipv6", "1")
	return k, nil
}

// Close gives back the descriptors. No call may be under way.
func (k *Kernel) Close() error {
	for {
		select {
		case s := <-k.sockets:
			s.close()
		default:
			return unix.Close(k.home)
		}
	}
}

// IsHome tells whether the descriptor is one of the namespace to which Pods are wired.
func (k *Kernel) IsHome(netns int) bool {
	id, err := identify(netns)
	return err == nil && id == k.homeID
}

// Attach wires the Pod. On failure nothing of it stays. A host link of this name that is there
// already is a leftover, and is replaced.
func (k *Kernel) Attach(s Spec) (Wiring, error) {
	if err := s.Validate(); err != nil {
		return Wiring{}, fmt.Errorf("wire a pod: %w", err)
	}
	inside, err := openSocketIn(s.Netns)
	if err != nil {
		return Wiring{}, err
	}
	defer inside.close()
	if err := k.write(s, inside); err != nil {
		return Wiring{}, err
	}
	if err := waitLocal(s, inside); err != nil { // others may write meanwhile
		return Wiring{}, errors.Join(err, k.Detach(s.HostLink))
	}
	var w Wiring
	w.HostMAC, w.PodMAC = MACs(s.HostLink)
	return w, nil
}

// write makes the pair and brings both ends to life, or leaves nothing.
func (k *Kernel) write(s Spec, inside *socket) error {
	host := <-k.sockets
	defer func() { k.sockets <- host }()
	if err := k.create(s, host, inside); err != nil {
		return err
	}
	if err := k.wire(s, host, inside); err != nil {
		return errors.Join(err, host.remove(s.HostLink))
	}
	return nil
}

func openSocketIn(netns int) (s *socket, err error) {
	err = inNamespace(netns, func() error {
		var err error
		s, err = openSocket()
		return err
	})
	return s, err
}

// create makes the veth pair, in place of a leftover if there is one.
func (k *Kernel) create(s Spec, host, inside *socket) error {
	hostMAC, podMAC := MACs(s.HostLink)
	pair := func() error {
		if !k.clsact || s.Bandwidth != (state.Bandwidth{}) {
			return host.do([]message{createVeth(s, hostMAC, podMAC), markHostEnd(s, k.ipv6)})
		}
		if err := host.do([]message{createVeth(s, hostMAC, podMAC)}); err != nil {
			return err
		}
		if index, err := host.index(s.HostLink); err == nil {
			_ = host.do([]message{addClsact(index)}) // not all kernels have it, and Pods do without
		}
		return host.do([]message{markHostEnd(s, k.ipv6)})
	}
	err := pair()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if _, ierr := host.index(s.HostLink); ierr == nil {
		if err := host.remove(s.HostLink); err != nil {
			return fmt.Errorf("remove the leftover of an earlier attempt: %w", err)
		}
		err = pair()
	}
	if _, ierr := inside.index(s.IfName); errors.Is(err, unix.EEXIST) && ierr == nil {
		return fmt.Errorf("create %s in the pod: %w", s.IfName, ErrInUse)
	}
	return err
}

// wire brings both ends to life: the settings of the host end, then the Pod's side, then the way to
// the Pod, so that there is no route to a Pod that could not answer.
func (k *Kernel) wire(s Spec, host, inside *socket) error {
	if err := k.settings(s.HostLink); err != nil {
		return err
	}
	hostIndex, err := host.index(s.HostLink)
	if err != nil {
		return err
	}
	podIndex, err := inside.index(s.IfName)
	if err != nil {
		return err
	}
	hostMAC, podMAC := MACs(s.HostLink)
	if err := k.wireInside(s, inside, podIndex, hostMAC, podMAC); err != nil {
		return fmt.Errorf("wire the pod's side: %w", err)
	}
	if err := host.do(wayToPod(s, hostIndex, podMAC)); err != nil {
		return fmt.Errorf("wire the host's side: %w", err)
	}
	if s.Bandwidth != (state.Bandwidth{}) {
		return k.limit(s.HostLink, s.Bandwidth, s.MTU)
	}
	return nil
}

// localWait bounds the wait for an address to be of use.
const localWait = 5 * time.Second

// pause sleeps for 50 us. The runtime's timers are no finer than a millisecond on an idle machine.
func pause() {
	ts := unix.NsecToTimespec(50_000)
	_ = unix.Nanosleep(&ts, nil)
}

// waitLocal waits until the Pod takes in packets for its IPv6 address. The kernel does not do this
// when the address is added, but in a work queue (addrconf_dad_work), even where there is no duplicate
// to look for; until then the first answer to the Pod is lost, which costs a connection a second.
func waitLocal(s Spec, inside *socket) error {
	for _, a := range s.Addresses {
		if a.Is4() {
			continue
		}
		for begin := time.Now(); ; pause() {
			kind, err := inside.routeType(a)
			if err != nil {
				return err
			}
			if kind == unix.RTN_LOCAL {
				break
			}
			if time.Since(begin) > localWait {
				return fmt.Errorf("the kernel has not taken %s into use for %s", a, localWait)
			}
		}
	}
	return nil
}

func wayToPod(s Spec, index int, podMAC net.HardwareAddr) []message {
	var out []message
	for _, a := range s.Addresses {
		out = append(out, addNeighbour(index, a, podMAC),
			addRoute(index, route{dst: netip.PrefixFrom(a, a.BitLen()), protocol: state.RouteProtocol}))
	}
	return append(out, syncCarrier(index))
}

func (k *Kernel) wireInside(s Spec, inside *socket, index int, hostMAC, podMAC net.HardwareAddr) error {
	err := inside.do(podSide(s, index, hostMAC, podMAC))
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return err
	}
	// The namespace was made with IPv6 off. The Pod has an IPv6 address, so it is wanted on. (The
	// settings in /proc/sys/net are those of the reader's namespace, wherever it is mounted.)
	on := inNamespace(s.Netns, func() error {
		return os.WriteFile(filepath.Join(k.procSysNet, "ipv6/conf", s.IfName, "disable_ipv6"), []byte("0"), 0)
	})
	if on != nil {
		return errors.Join(err, fmt.Errorf("enable IPv6 in the pod: %w", on))
	}
	return inside.do(podSide(s, index, hostMAC, podMAC))
}

func podSide(s Spec, index int, hostMAC, podMAC net.HardwareAddr) []message {
	var out []message
	if slices.ContainsFunc(s.Addresses, netip.Addr.Is6) {
		out = append(out, noAutoAddress(index))
	}
	out = append(out, setUp(index))
	for _, a := range s.Addresses {
		gateway := Gateway(a)
		out = append(out, addAddress(index, netip.PrefixFrom(a, a.BitLen())), addNeighbour(index, gateway, hostMAC))
		if a.Is6() {
			out = append(out, addAddress(index, netip.PrefixFrom(linkLocal(podMAC), 64)))
		}
		out = append(out, defaultRoute(index, a)...)
	}
	return out
}

// linkLocal is the link-local address of a hardware address (EUI-64, RFC 4291 appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// settings writes what has no netlink attribute, and only where the default of new links differs.
func (k *Kernel) settings(link string) error {
	var wrong []state.Sysctl
	if k.noIPv6 {
		wrong = append(wrong, state.Sysctl{Path: "ipv6/conf/" + link + "/disable_ipv6", Value: "0"})
	}
	if k.acceptRA { // a Pod must not tell its node where to send
		wrong = append(wrong, state.Sysctl{Path: "ipv6/conf/" + link + "/accept_ra", Value: "0"})
	}
	if len(wrong) == 0 {
		return nil
	}
	return inNamespace(k.home, func() error {
		for _, w := range wrong {
			if err := os.WriteFile(filepath.Join(k.procSysNet, w.Path), []byte(w.Value), 0); err != nil {
				return fmt.Errorf("write %s: %w", w, err)
			}
		}
		return nil
	})
}

func (k *Kernel) hasIPv6() bool {
	return inNamespace(k.home, func() error {
		_, err := os.Stat(filepath.Join(k.procSysNet, "ipv6"))
		return err
	}) == nil
}

// sysctlIs tells whether a setting is there and has a value.
func (k *Kernel) sysctlIs(path, value string) bool {
	var is string
	err := inNamespace(k.home, func() error {
		b, err := os.ReadFile(filepath.Join(k.procSysNet, path))
		is = strings.TrimSpace(string(b))
		return err
	})
	return err == nil && is == value
}
