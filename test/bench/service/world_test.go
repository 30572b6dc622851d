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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/test/bench/lab"
)

const (
	namespace    = "default"
	servicePort  = 80
	endpointPort = 8080
	probeName    = "probe"
	// workers that create: the API server does several at a time sooner than one after another.
	workers = 12
)

// The endpoints' addresses. Every node of this benchmark takes all of them for its own, so that each
// Service really answers; they are no Pod addresses, which Weftnet would protect.
var (
	endpoints4 = netip.MustParsePrefix("172.20.0.0/14")
	endpoints6 = netip.MustParsePrefix("fd00:20::/64")
)

// world is the API server's content.
type world struct {
	lab     *lab.Lab
	addrs   []netip.Addr // ClusterIPs, by number
	slices  []*discoveryv1.EndpointSlice
	probe   probe
	nodes   int
	reached int // Services that exist
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
	w := &world{lab: l}
	refuse(t, l.Router())
	dual := corev1.IPFamilyPolicyRequireDualStack
	service := serviceFor(probeName)
	service.Spec.IPFamilyPolicy = &dual
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
	return w
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

// grow makes Services until there are so many.
func (w *world) grow(t *testing.T, size int) {
	t.Helper()
	for len(w.addrs) < size {
		w.addrs, w.slices = append(w.addrs, netip.Addr{}), append(w.slices, nil)
	}
	var next atomic.Int64
	next.Store(int64(w.reached))
	errs := make(chan error, workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := int(next.Add(1) - 1); i < size; i = int(next.Add(1) - 1) {
				if err := w.create(t.Context(), i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	w.reached = size
}

func (w *world) create(ctx context.Context, number int) error {
	name := fmt.Sprintf("s-%05d", number)
	service := serviceFor(name)
	if err := w.lab.Client.Create(ctx, service); err != nil {
		return fmt.Errorf("create Service %s: %w", name, err)
	}
	w.addrs[number] = netip.MustParseAddr(service.Spec.ClusterIP)
	s := sliceFor(name, discoveryv1.AddressTypeIPv4, addressesOf(number)...)
	if err := w.lab.Client.Create(ctx, s); err != nil {
		return fmt.Errorf("create EndpointSlice %s: %w", name, err)
	}
	w.slices[number] = s
	return nil
}

// write sends a slice with the time of the change, as Kubernetes' controller does.
func (w *world) write(ctx context.Context, s *discoveryv1.EndpointSlice) error {
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
	return to, w.write(ctx, w.probe.slice)
}

// churn takes an endpoint from some Service or gives it back, as often as asked, until the context
// ends, and returns how many changes it has made.
func (w *world) churn(ctx context.Context, every time.Duration) int {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	work := make(chan int, workers)
	var made atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range work {
				s := w.slices[i]
				all := sliceFor("", s.AddressType, addressesOf(i)...).Endpoints
				if len(s.Endpoints) == len(all) {
					all = all[1:]
				}
				s.Endpoints = all
				if w.write(ctx, s) == nil {
					made.Add(1)
				}
			}
		})
	}
	// Strides through the Services, so that no two workers ever hold the same.
	for i := 0; ctx.Err() == nil; i = (i + 37) % w.reached {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			work <- i
		}
	}
	close(work)
	group.Wait()
	return int(made.Load())
}

// settle brings back what an interrupted write may have left unknown.
func (w *world) settle(t *testing.T) {
	t.Helper()
	for i, s := range w.slices[:w.reached] {
		if s.Annotations == nil {
			continue
		}
		fresh := &discoveryv1.EndpointSlice{}
		if err := w.lab.Client.Get(t.Context(), client.ObjectKeyFromObject(s), fresh); err != nil {
			t.Fatal(err)
		}
		w.slices[i] = fresh
		fresh.Annotations = nil
	}
}
