//go:build linux && bench

package service

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/bench/lab"
)

const (
	namespace    = "default"
	servicePort  = 80
	endpointPort = 8080
	probeName    = "probe"
)

// The endpoints' addresses. Every node of this benchmark takes all of them for its own, so that each
// Service really answers; they are no Pod addresses, which Weftnet would protect.
var (
	endpoints4 = netip.MustParsePrefix("172.20.0.0/14")
	endpoints6 = netip.MustParsePrefix("fd00:20::/64")
)

// world is the API server's content.
type world struct {
	lab    *lab.Lab
	store  *store
	slices []*discoveryv1.EndpointSlice // by the number of the Service; as many as there are
	probe  probe
	nodes  int
	begun  time.Time
}

// probe is the Service whose endpoint changes: dual stack, one endpoint.
type probe struct {
	v4, v6  netip.Addr
	slice   *discoveryv1.EndpointSlice
	current int
}

// endpoint is the address of a number.
func endpoint(number int) netip.Addr {
	b := endpoints4.Addr().As4()
	number++
	return netip.AddrFrom4([4]byte{b[0], b[1] + byte(number>>16), byte(number >> 8), byte(number)})
}

// The probe's endpoint is one of these in turn.
func probeEndpoint(number int) netip.Addr { return endpoint(3<<16 + number%2) }

var probeEndpoint6 = netip.MustParseAddr("fd00:20::1")

func newWorld(t *testing.T, l *lab.Lab) *world {
	t.Helper()
	w := &world{lab: l, store: newStore(t, l.Etcd), begun: time.Now()}
	refuse(t, l.Router())
	dual := corev1.IPFamilyPolicyRequireDualStack
	service := serviceFor(probeName)
	service.Spec.IPFamilyPolicy = &dual
	service.Spec.ClusterIPs = []string{"10.96.0.10", "fd00:10:96::10"}
	service.Spec.ClusterIP = service.Spec.ClusterIPs[0]
	if err := l.Client.Create(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	w.probe.v4, w.probe.v6 = netip.MustParseAddr(service.Spec.ClusterIPs[0]), netip.MustParseAddr(service.Spec.ClusterIPs[1])
	w.probe.slice = sliceFor(probeName, discoveryv1.AddressTypeIPv4, probeEndpoint(0))
	v6 := sliceFor(probeName+"-v6", discoveryv1.AddressTypeIPv6, probeEndpoint6)
	v6.Labels[discoveryv1.LabelServiceName] = probeName
	for _, s := range []*discoveryv1.EndpointSlice{w.probe.slice, v6} {
		if err := l.Client.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.pattern(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// size is how many Services there are.
func (w *world) size() int { return len(w.slices) }

// say tells how far it is.
func (w *world) say(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("%4.0f s: %s", time.Since(w.begun).Seconds(), fmt.Sprintf(format, args...))
}

// grow makes Services until there are so many, and lets the API server settle: a node that starts meets a cluster that has
// had its Services for long, and who is measured first would else wait for the work that their making has left behind.
func (w *world) grow(t *testing.T, size int) {
	t.Helper()
	begin := time.Now()
	if err := w.fill(t.Context(), size); err != nil {
		t.Fatal(err)
	}
	w.say(t, "%d Services are there, after %.1f s", w.size(), time.Since(begin).Seconds())
	rest(settleTime)
}

func serviceFor(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Port: servicePort, Protocol: corev1.ProtocolTCP}},
	}}
}

func sliceFor(name string, family discoveryv1.AddressType, addresses ...netip.Addr) *discoveryv1.EndpointSlice {
	ready, port, tcp := true, int32(endpointPort), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port, Protocol: &tcp}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return s
}

// addresses of a Service's endpoints: two to four.
func addressesOf(number int) []netip.Addr {
	var out []netip.Addr
	for i := range 2 + number%3 {
		out = append(out, endpoint(number*4+i))
	}
	return out
}

// update sends a slice with the time of the change, as Kubernetes' controller does.
func (w *world) update(ctx context.Context, s *discoveryv1.EndpointSlice) error {
	s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().UTC().Format(time.RFC3339Nano)}
	s.ManagedFields = nil
	if err := w.lab.Client.Update(ctx, s); err != nil {
		return fmt.Errorf("update EndpointSlice %s: %w", s.Name, err)
	}
	return nil
}

// turnProbe gives the probe its other endpoint, and returns its address once the API server has answered.
func (w *world) turnProbe(ctx context.Context) (netip.Addr, error) {
	w.probe.current++
	to := probeEndpoint(w.probe.current)
	w.probe.slice.Endpoints[0].Addresses = []string{to.String()}
	return to, w.update(ctx, w.probe.slice)
}

// churn takes an endpoint from some Service or gives it back, as often as asked, until the context
// ends, and returns how many changes it has made. What is begun is finished.
func (w *world) churn(ctx context.Context, every time.Duration) (int, error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	const writers = 4
	work, errs := make(chan int), make(chan error, writers)
	var made atomic.Int64
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for i := range work {
				if err := w.nudge(i); err != nil && len(errs) < cap(errs) {
					errs <- err
				}
				made.Add(1)
			}
		})
	}
	// Strides through the Services, so that no two writers ever hold the same.
	for i := 0; ctx.Err() == nil; i = (i + 37) % w.size() {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			work <- i
		}
	}
	close(work)
	group.Wait()
	close(errs)
	return int(made.Load()), <-errs
}

// nudge takes an endpoint from a Service, or gives it back.
func (w *world) nudge(number int) error {
	s := w.slices[number]
	all := sliceFor("", s.AddressType, addressesOf(number)...).Endpoints
	if len(s.Endpoints) == len(all) {
		all = all[1:]
	}
	s.Endpoints = all
	return w.update(context.Background(), s)
}
